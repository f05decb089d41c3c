-- psql through the pooler in transaction mode: the output must be that of suite.out.
-- By hand: psql -X -q -f suite.sql 2>&1 | diff suite.out -
\set VERBOSITY verbose
\set SHOW_CONTEXT never
\pset pager off
\pset format unaligned
set client_min_messages to warning;
drop table if exists psql_suite;
create table psql_suite (id int primary key, name text);
set client_min_messages to notice;

\echo several statements in one query
select 1 as a\; select 'two' as b\; select 3 as c where false;

\echo describe without executing
select id, name, 1.5::numeric(4,2) as ratio from psql_suite \gdesc

\echo copy in and out
\copy psql_suite from stdin
1	one
2	two
3	\N
\.
copy (select * from psql_suite order by id) to stdout with (format csv, header);

\echo a transaction that fails, with a savepoint
begin;
insert into psql_suite values (4, 'four');
savepoint s;
\set VERBOSITY terse
insert into psql_suite values (1, 'again');
select 'refused';
rollback to s;
select count(*) from psql_suite;
rollback;
select count(*) from psql_suite;

\echo notices
do $$ begin raise notice 'hello %', 1; raise warning 'careful'; end $$;

\echo a cursor
begin;
declare c scroll cursor for select generate_series(1, 10);
fetch 2 from c;
move 5 from c;
fetch 1 from c;
commit;

\echo settings stay with the session
set timezone to 'Asia/Kolkata';
set datestyle to 'German';
select current_setting('timezone'), timestamptz '2024-02-29 12:00+00';
begin;
set local timezone to 'UTC';
select current_setting('timezone');
commit;
select current_setting('timezone');
reset timezone;
\encoding latin1
select length('x');
\encoding utf8

\echo results as commands
select format('select %s as n', n) from generate_series(1, 3) n \gexec

\echo one row at a time
\set FETCH_COUNT 2
select id from psql_suite order by id;
\unset FETCH_COUNT

\echo another connection of the same session
\connect
select name from psql_suite where id = 2;
drop table psql_suite;
