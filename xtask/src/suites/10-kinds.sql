-- Kinds of records that PostgreSQL's suites do not write. One session; every statement is a transaction.

-- xlog, replication origins, logical messages
SELECT pg_create_restore_point('a name'), pg_switch_wal();
SELECT pg_logical_emit_message(true, 'prefix', 'in a transaction'), pg_logical_emit_message(false, 'prefix', 'alone');
SELECT pg_replication_origin_create('elsewhere'), pg_replication_origin_create('gone');
SELECT pg_replication_origin_advance('elsewhere', '0/ABCDEF'), pg_replication_origin_advance('gone', '0/1');
SELECT pg_replication_origin_drop('gone');
SELECT pg_replication_origin_session_setup('elsewhere');
BEGIN;
SELECT pg_replication_origin_xact_setup('0/BCDEF0', '2020-02-02 02:02:02+00');
CREATE TABLE replicated (a int);
COMMIT;
SELECT pg_replication_origin_session_reset();

-- hints are logged as images while a backup runs, although full_page_writes is off
CREATE TABLE hinted AS SELECT g, repeat('x', 100) t FROM generate_series(1, 5000) g;
SELECT pg_backup_start('a backup', true);
SELECT count(*) FROM hinted;
SELECT lsn FROM pg_backup_stop(false);
ALTER SYSTEM SET full_page_writes = on;
SELECT pg_reload_conf(), pg_sleep(1);
CHECKPOINT;
ALTER SYSTEM RESET full_page_writes;
SELECT pg_reload_conf(), pg_sleep(1);

-- databases both ways, and one that goes again
CREATE DATABASE copied_by_file STRATEGY file_copy;
CREATE DATABASE copied_by_wal STRATEGY wal_log;
CREATE DATABASE gone STRATEGY file_copy;
DROP DATABASE gone;
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE beside LOCATION '';
CREATE TABLE placed (a int PRIMARY KEY) TABLESPACE beside;
INSERT INTO placed SELECT generate_series(1, 3000);
CREATE DATABASE moved;
ALTER DATABASE moved SET TABLESPACE beside;

-- a catalog rewritten while somebody decodes
SELECT slot_name FROM pg_create_logical_replication_slot('decoder', 'test_decoding');
VACUUM FULL pg_class;
VACUUM FULL pg_attribute;
SELECT pg_drop_replication_slot('decoder');

-- index entries known to be dead go when room is needed
CREATE TABLE killed (p point, k int);
CREATE INDEX killed_p ON killed USING gist (p);
CREATE INDEX killed_k ON killed USING hash (k);
INSERT INTO killed SELECT point(g % 10, g), 7 FROM generate_series(1, 120) g;
DELETE FROM killed;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT count(*) FROM killed WHERE p <@ box '(0,0),(1000,1000)';
SELECT count(*) FROM killed WHERE k = 7;
INSERT INTO killed SELECT point(g % 10, g), 7 FROM generate_series(1, 700) g;
DELETE FROM killed WHERE p[1] < 320;
SELECT count(*) FROM killed WHERE p <@ box '(0,0),(1000,1000)';
SELECT count(*) FROM killed WHERE k = 7;
INSERT INTO killed SELECT point(g % 10, g), 7 FROM generate_series(1, 900) g;
DELETE FROM killed WHERE p[1]::int % 10 <> 0;
VACUUM killed;
RESET enable_seqscan;
RESET enable_bitmapscan;

-- a bucket whose overflow pages are squeezed together
CREATE TABLE squeezed (k int, n int);
INSERT INTO squeezed SELECT 42, g FROM generate_series(1, 30000) g;
CREATE INDEX squeezed_k ON squeezed USING hash (k) WITH (fillfactor = 100);
DELETE FROM squeezed WHERE n % 4 <> 0;
VACUUM squeezed;
DELETE FROM squeezed WHERE n % 16 <> 0;
VACUUM squeezed;
INSERT INTO squeezed SELECT g % 3, g FROM generate_series(1, 20000) g;
DELETE FROM squeezed WHERE n % 3 <> 0;
VACUUM squeezed;

-- pages of an index that are emptied, and used again once nobody can see them
CREATE TABLE emptied (p point);
CREATE INDEX emptied_p ON emptied USING gist (p);
INSERT INTO emptied SELECT point(g, g) FROM generate_series(1, 20000) g;
DELETE FROM emptied WHERE p[0] > 100;
VACUUM emptied;
SELECT txid_current();
SELECT txid_current();
VACUUM emptied;
INSERT INTO emptied SELECT point(g, -g) FROM generate_series(1, 20000) g;

CREATE TABLE rooted (t text);
CREATE INDEX rooted_t ON rooted USING spgist (t);
INSERT INTO rooted SELECT g FROM generate_series(1, 20) g;
DELETE FROM rooted WHERE t > '15';
VACUUM rooted;

CREATE EXTENSION bloom;
CREATE TABLE bloomed AS SELECT g a, g % 7 b FROM generate_series(1, 5000) g;
CREATE INDEX bloomed_ab ON bloomed USING bloom (a, b);
DELETE FROM bloomed WHERE a % 3 = 0;
VACUUM bloomed;
INSERT INTO bloomed SELECT g, 1 FROM generate_series(1, 2000) g;

-- many multixacts: each row is locked by a transaction and by a subtransaction of its own
CREATE TABLE locked AS SELECT g id, 0 n FROM generate_series(1, 4000) g;
CREATE UNIQUE INDEX ON locked (id);
DO $$
BEGIN
    FOR row_id IN 1..4000 LOOP
        PERFORM 1 FROM locked WHERE id = row_id FOR KEY SHARE;
        BEGIN
            UPDATE locked SET n = n + 1 WHERE id = row_id;
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    END LOOP;
END
$$;
