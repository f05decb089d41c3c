//! SQL that makes a server write every kind of WAL record we can provoke without patience.

use pg::wal::segment::WalVersion;

use crate::cluster::Cluster;

/// Settings under which [`run`] works.
pub(crate) const SETTINGS: &[&str] = &[
    "wal_level=logical",
    "max_wal_size=64GB",
    "wal_keep_size=64GB",
    "checkpoint_timeout=1d",
    "max_prepared_transactions=10",
    "track_commit_timestamp=on",
    "allow_in_place_tablespaces=on",
    "autovacuum=off",
    "max_wal_senders=4",
    "shared_buffers=64MB",
];

/// Runs everything; takes some seconds.
pub(crate) fn run(cluster: &Cluster) {
    run_steps(cluster, STEPS);
}

/// Runs what matters for heap pages and their hints.
pub(crate) fn run_heap(cluster: &Cluster) {
    run_steps(cluster, STEPS.get(..2).unwrap());
}

/// One session for each subject; each statement is a transaction, as VACUUM and its like demand.
fn run_steps(cluster: &Cluster, steps: &[(&str, &str)]) {
    for (name, sql) in steps {
        println!("{name}");
        let mut arguments = vec!["-Xq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"];
        // Postgres 14 knows no strategies and copies files.
        let known = if cluster.version() == WalVersion::V14 {
            sql.replace(" STRATEGY wal_log", "").replace(" STRATEGY file_copy", "")
        } else {
            sql.to_string()
        };
        for statement in known.split(";;") {
            arguments.extend(["-c", statement.trim(), "-c", "RESET ALL"]);
        }
        cluster.run("psql", &arguments);
    }
    pgbench(cluster);
    cluster.sql("SELECT pg_create_restore_point('workload done'), pg_switch_wal()");
    cluster.sql("CHECKPOINT");
}

fn pgbench(cluster: &Cluster) {
    cluster.run("pgbench", &["-i", "-q", "-s", "1", "postgres"]);
    cluster.run("pgbench", &["-n", "-c", "4", "-j", "2", "-t", "100", "postgres"]);
    cluster.sql("VACUUM pgbench_branches");
    cluster.sql("VACUUM (FREEZE) pgbench_accounts");
}

/// (subject, statements separated by `;;`).
const STEPS: &[(&str, &str)] = &[
    ("heap", HEAP),
    ("locks", LOCKS),
    ("btree", BTREE),
    ("transactions", TRANSACTIONS),
    ("other access methods", ACCESS_METHODS),
    ("posting trees", POSTING_TREES),
    ("rare records", RARE),
    ("databases", DATABASES),
];

const HEAP: &str = "
CREATE TABLE plain (id int PRIMARY KEY, n int, t text, u text) WITH (fillfactor = 80);;
INSERT INTO plain SELECT g, g % 10, repeat('x', g % 50), NULL FROM generate_series(1, 3000) g;;
UPDATE plain SET t = t || 'y' WHERE id % 3 = 0;;
UPDATE plain SET n = n + 1, u = 'set' WHERE id % 4 = 0;;
UPDATE plain SET t = repeat('z', 300) WHERE id % 7 = 0;;
SELECT sum(n) FROM plain;;
DELETE FROM plain WHERE id % 5 = 0;;
VACUUM plain;;
UPDATE plain SET u = 'again' WHERE id < 500;;
DELETE FROM plain WHERE id BETWEEN 600 AND 700;;
INSERT INTO plain SELECT g, 1, 'back', 'again' FROM generate_series(600, 650) g;;
VACUUM (FREEZE) plain;;
UPDATE plain SET u = 'thaw' WHERE id % 100 = 1;;
DELETE FROM plain WHERE id > 2000;;
VACUUM plain;;
ANALYZE plain;;
DO $$ BEGIN FOR i IN 1..40 LOOP UPDATE plain SET n = n + 1 WHERE id = 1; END LOOP; END $$;;
DO $$ BEGIN FOR i IN 1..40 LOOP UPDATE plain SET n = n + 1 WHERE id = 2; COMMIT; END LOOP; END $$;;
BEGIN; UPDATE plain SET n = 0 WHERE id < 300; ROLLBACK;;
BEGIN; INSERT INTO plain SELECT g, 0, 'gone', '' FROM generate_series(9000, 9100) g; ROLLBACK;;
VACUUM plain;;
INSERT INTO plain VALUES (1, 1, 'a', 'b') ON CONFLICT (id) DO UPDATE SET n = 77;;
INSERT INTO plain SELECT g, 1, 'a', 'b' FROM generate_series(8000, 8050) g ON CONFLICT DO NOTHING;;
CREATE TABLE copied (a int, b text);;
COPY copied FROM PROGRAM 'seq 1 3000 | sed s/$/,text/' WITH (FORMAT csv);;
BEGIN; CREATE TABLE frozen (a int); COPY frozen FROM PROGRAM 'seq 1 1000' WITH (FREEZE); COMMIT;;
CREATE TABLE wide (id int PRIMARY KEY, big text);;
ALTER TABLE wide ALTER big SET STORAGE EXTERNAL;;
INSERT INTO wide SELECT g, repeat(md5(g::text), 200) FROM generate_series(1, 40) g;;
UPDATE wide SET big = repeat('q', 5000) WHERE id < 10;;
DELETE FROM wide WHERE id > 30;;
VACUUM wide;;
CREATE TABLE parted (k int, v text) PARTITION BY RANGE (k);;
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100);;
CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (100) TO (1000);;
INSERT INTO parted SELECT g, 'v' FROM generate_series(1, 150) g;;
UPDATE parted SET k = k + 100 WHERE k < 50;;
CREATE TABLE emptied AS SELECT g FROM generate_series(1, 2000) g;;
DELETE FROM emptied WHERE g > 300;;
VACUUM emptied;;
TRUNCATE emptied;;
CLUSTER plain USING plain_pkey;;
VACUUM FULL copied;;
DROP TABLE frozen;;
CREATE UNLOGGED TABLE unlogged (a int);;
INSERT INTO unlogged SELECT generate_series(1, 100);;
CREATE SEQUENCE counted;;
SELECT count(nextval('counted')) FROM generate_series(1, 200);;
SELECT setval('counted', 5000);;
ALTER SEQUENCE counted RESTART WITH 3 INCREMENT BY 7;;
SELECT count(nextval('counted')) FROM generate_series(1, 50)
";

const LOCKS: &str = "
CREATE EXTENSION dblink;;
CREATE TABLE locked (id int PRIMARY KEY, n int);;
CREATE TABLE child (id int REFERENCES locked);;
INSERT INTO locked SELECT g, 0 FROM generate_series(1, 400) g;;
INSERT INTO child SELECT g FROM generate_series(1, 50) g;;
BEGIN; SELECT count(*) FROM (SELECT * FROM locked WHERE id < 30 FOR UPDATE) s; COMMIT;;
VACUUM (FREEZE) locked;;
BEGIN; SELECT count(*) FROM (SELECT * FROM locked WHERE id < 20 FOR SHARE) s; COMMIT;;
BEGIN; SELECT count(*) FROM (SELECT * FROM locked WHERE id < 20 FOR NO KEY UPDATE) s;
SAVEPOINT s; UPDATE locked SET n = n + 1 WHERE id < 10; ROLLBACK TO s;
UPDATE locked SET n = n + 2 WHERE id < 15; COMMIT;;
DO $$
DECLARE place text := 'dbname=postgres host=' || current_setting('unix_socket_directories');
BEGIN
  PERFORM dblink_connect('a', place);
  PERFORM dblink_connect('b', place);
  PERFORM dblink_connect('c', place);
  PERFORM dblink_exec('a', 'BEGIN');
  PERFORM dblink_exec('b', 'BEGIN');
  PERFORM dblink_exec('c', 'BEGIN ISOLATION LEVEL REPEATABLE READ');
  PERFORM * FROM dblink('c', 'SELECT count(*) FROM child') t(x int);
  PERFORM * FROM dblink('a', 'SELECT id FROM locked WHERE id < 200 FOR KEY SHARE') t(x int);
  PERFORM * FROM dblink('b', 'SELECT id FROM locked WHERE id < 100 FOR SHARE') t(x int);
  PERFORM * FROM dblink('b', 'SELECT id FROM locked WHERE id BETWEEN 100 AND 150 FOR KEY SHARE') t(x int);
  PERFORM dblink_exec('b', 'UPDATE locked SET n = n + 1 WHERE id BETWEEN 120 AND 180');
  PERFORM * FROM dblink('a', 'SELECT id FROM locked WHERE id BETWEEN 150 AND 170 FOR KEY SHARE') t(x int);
  PERFORM * FROM dblink('c', 'SELECT id FROM locked WHERE id BETWEEN 160 AND 190 FOR KEY SHARE') t(x int);
  PERFORM dblink_exec('b', 'COMMIT');
  PERFORM * FROM dblink('c', 'SELECT id FROM locked WHERE id BETWEEN 100 AND 175 FOR KEY SHARE') t(x int);
  PERFORM dblink_exec('a', 'UPDATE locked SET n = n + 5 WHERE id BETWEEN 150 AND 160');
  PERFORM dblink_exec('c', 'COMMIT');
  PERFORM dblink_exec('a', 'ROLLBACK');
  PERFORM dblink_disconnect('a');
  PERFORM dblink_disconnect('b');
  PERFORM dblink_disconnect('c');
END $$;;
UPDATE locked SET n = 9 WHERE id BETWEEN 90 AND 170;;
DELETE FROM locked WHERE id BETWEEN 300 AND 350;;
SELECT count(*) FROM locked;;
VACUUM locked;;
VACUUM (FREEZE) locked
";

const BTREE: &str = "
CREATE TABLE keys (id int, low int, name text);;
CREATE UNIQUE INDEX keys_id ON keys (id);;
CREATE INDEX keys_low ON keys (low);;
CREATE INDEX keys_name ON keys (name) WITH (fillfactor = 50);;
INSERT INTO keys SELECT g, g % 5, md5(g::text) FROM generate_series(1, 3000) g;;
INSERT INTO keys SELECT -g, g % 3, repeat(md5(g::text), 10) FROM generate_series(1, 700) g;;
DO $$ BEGIN FOR i IN 1..30 LOOP UPDATE keys SET name = md5(i::text || name) WHERE id % 50 = 1; COMMIT; END LOOP; END $$;;
DELETE FROM keys WHERE id BETWEEN 500 AND 2200;;
VACUUM keys;;
VACUUM keys;;
INSERT INTO keys SELECT g, g % 5, md5(g::text) FROM generate_series(500, 1200) g;;
DELETE FROM keys WHERE id % 3 = 0;;
VACUUM keys;;
UPDATE keys SET low = 99 WHERE id % 4 = 0;;
VACUUM keys;;
DELETE FROM keys;;
VACUUM keys;;
VACUUM keys;;
INSERT INTO keys SELECT g, g % 7, md5(g::text) FROM generate_series(1, 1000) g;;
VACUUM keys;;
CREATE TABLE tall (k text);;
CREATE INDEX tall_k ON tall (k) WITH (fillfactor = 20, deduplicate_items = off);;
ALTER TABLE tall ALTER k SET STORAGE PLAIN;;
INSERT INTO tall SELECT lpad(g::text, 1200, 'k') FROM generate_series(1, 300) g;;
DELETE FROM tall WHERE k < lpad('280', 1200, 'k') OR k > lpad('299', 1200, 'k');;
DELETE FROM tall WHERE k < lpad('290', 1200, 'k');;
VACUUM tall;;
VACUUM tall;;
INSERT INTO tall SELECT lpad(g::text, 1200, 'k') FROM generate_series(280, 400) g;;
VACUUM tall;;
CREATE TABLE posting (v int, w int);;
CREATE INDEX posting_v ON posting (v);;
INSERT INTO posting SELECT 1, g FROM generate_series(1, 800) g;;
INSERT INTO posting SELECT 2, g FROM generate_series(1, 800) g;;
DELETE FROM posting WHERE w % 2 = 0;;
VACUUM posting;;
INSERT INTO posting SELECT 1 + g % 2, g FROM generate_series(1, 800) g;;
DELETE FROM posting WHERE w % 3 = 0;;
SELECT count(*) FROM posting WHERE v = 1;;
SET enable_seqscan = off; SELECT count(*) FROM posting WHERE v = 1;;
INSERT INTO posting SELECT 1 + g % 2, g FROM generate_series(1, 800) g
";

const TRANSACTIONS: &str = "
BEGIN; INSERT INTO keys VALUES (90001, 1, 'p'); SAVEPOINT one; INSERT INTO keys VALUES (90002, 1, 'p');
SAVEPOINT two; INSERT INTO keys VALUES (90003, 1, 'p'); ROLLBACK TO two; COMMIT;;
BEGIN; INSERT INTO keys VALUES (90011, 1, 'p'); SAVEPOINT s; CREATE TABLE by_prepared (a int);
PREPARE TRANSACTION 'to commit';;
BEGIN; INSERT INTO keys VALUES (90021, 1, 'p'); CREATE TABLE never (a int); PREPARE TRANSACTION 'to abort';;
COMMIT PREPARED 'to commit';;
ROLLBACK PREPARED 'to abort';;
DO $$ BEGIN FOR i IN 1..80 LOOP BEGIN INSERT INTO keys VALUES (91000 + i, 1, 's'); EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$;;
BEGIN; CREATE TABLE rolled (a int); INSERT INTO rolled VALUES (1); ROLLBACK;;
SELECT pg_logical_emit_message(false, 'prefix', 'content'), pg_logical_emit_message(true, 'other', 'text');;
SELECT pg_replication_origin_create('elsewhere');;
SELECT pg_replication_origin_session_setup('elsewhere');
SELECT pg_replication_origin_xact_setup('0/1234', '2026-01-01'); INSERT INTO keys VALUES (90031, 1, 'o');
SELECT pg_replication_origin_session_reset();;
SELECT pg_replication_origin_advance('elsewhere', '0/5678');;
SELECT pg_replication_origin_drop('elsewhere')
";

const ACCESS_METHODS: &str = "
CREATE EXTENSION bloom;;
CREATE TABLE others (id int, name text, tags int[], place point, span int4range);;
CREATE INDEX others_hash ON others USING hash (id);;
CREATE INDEX others_gin ON others USING gin (tags);;
CREATE INDEX others_gist ON others USING gist (place);;
CREATE INDEX others_spgist ON others USING spgist (name);;
CREATE INDEX others_brin ON others USING brin (id) WITH (pages_per_range = 2, autosummarize = off);;
CREATE INDEX others_bloom ON others USING bloom (id);;
INSERT INTO others SELECT g, md5((g % 300)::text) || g, ARRAY[g % 20, g % 33, g], point(g % 100, g / 100), int4range(g, g + 10)
FROM generate_series(1, 1300) g;;
SELECT brin_summarize_new_values('others_brin');;
UPDATE others SET id = id + 1, place = point(1, id) WHERE id % 10 = 0;;
DELETE FROM others WHERE id % 3 = 0;;
VACUUM others;;
SELECT brin_desummarize_range('others_brin', 0);;
INSERT INTO others SELECT g, md5(g::text), ARRAY[g % 20], point(g, g), int4range(g, g + 1) FROM generate_series(1, 400) g;;
DELETE FROM others WHERE id < 1000;;
VACUUM others;;
VACUUM others
";

/// Few rows to a heap page, so that few item pointers fit into a leaf of a posting tree.
const POSTING_TREES: &str = "
CREATE TABLE many (id int, tags int[]) WITH (fillfactor = 10);;
COPY many FROM PROGRAM 'seq 1 34000 | sed \"s/$/\\t{1,2}/\"';;
COPY many FROM PROGRAM 'seq 1 2200 | sed \"s/$/\\t{3}/\"';;
CREATE INDEX many_gin ON many USING gin (tags) WITH (fastupdate = off);;
INSERT INTO many SELECT g, ARRAY[1, 3] FROM generate_series(20001, 21000) g;;
DELETE FROM many WHERE id BETWEEN 6000 AND 26000;;
VACUUM many;;
INSERT INTO many SELECT g, ARRAY[1, 2] FROM generate_series(40001, 41500) g;;
DELETE FROM many WHERE id > 40000 OR id < 1000;;
VACUUM many
";

/// Kinds of records that take some doing.
const RARE: &str = "
CREATE TABLE radix (t text);;
CREATE INDEX radix_t ON radix USING spgist (t);;
INSERT INTO radix SELECT 'a prefix of everything ' || md5(g::text) FROM generate_series(1, 400) g;;
INSERT INTO radix SELECT left('a prefix of everything ', g) || '#' || g FROM generate_series(1, 22) g;;
CREATE TABLE rooted (t text);;
CREATE INDEX rooted_t ON rooted USING spgist (t);;
INSERT INTO rooted SELECT g FROM generate_series(1, 20) g;;
DELETE FROM rooted WHERE t > '15';;
VACUUM rooted;;
CREATE TABLE killed (p point, k int);;
CREATE INDEX killed_p ON killed USING gist (p);;
CREATE INDEX killed_k ON killed USING hash (k);;
INSERT INTO killed SELECT point(g % 10, g), 7 FROM generate_series(1, 120) g;;
DELETE FROM killed;;
SET enable_seqscan = off; SET enable_bitmapscan = off;
SELECT count(*) FROM killed WHERE p <@ box '(0,0),(1000,1000)'; SELECT count(*) FROM killed WHERE k = 7;;
INSERT INTO killed SELECT point(g % 10, g), 7 FROM generate_series(1, 700) g;;
DELETE FROM killed WHERE p[1] < 320;;
SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM killed WHERE k = 7;;
INSERT INTO killed SELECT point(g % 10, g), 7 FROM generate_series(1, 900) g;;
DELETE FROM killed WHERE p[1]::int % 10 <> 0;;
VACUUM killed;;
CREATE TABLE pruned (p point);;
CREATE INDEX pruned_p ON pruned USING gist (p);;
INSERT INTO pruned SELECT point(g % 10, g) FROM generate_series(1, 1000) g;;
DELETE FROM pruned WHERE p[1] > 50;;
SET enable_seqscan = off; SET enable_bitmapscan = off;
SELECT count(*) FROM pruned WHERE p <@ box '(0,0),(10000,10000)';;
INSERT INTO pruned SELECT point(g % 10, g) FROM generate_series(1, 1000) g;;
DELETE FROM pruned WHERE p[1] > 20;;
VACUUM pruned;;
VACUUM pruned;;
INSERT INTO pruned SELECT point(g % 10, g) FROM generate_series(1, 1000) g;;
CREATE TABLE ranged (t text) WITH (fillfactor = 10);;
COPY ranged FROM PROGRAM 'seq 10001 17000';;
CREATE INDEX ranged_t ON ranged USING brin (t) WITH (pages_per_range = 1);;
UPDATE ranged SET t = repeat('z', 300) WHERE t::int % 400 = 0;;
VACUUM ranged
";

const DATABASES: &str = "
CREATE DATABASE logged STRATEGY wal_log;;
CREATE DATABASE copied STRATEGY file_copy;;
CREATE DATABASE kept STRATEGY wal_log;;
DROP DATABASE logged;;
CREATE TABLESPACE place LOCATION '';;
CREATE TABLE placed (a int) TABLESPACE place;;
INSERT INTO placed SELECT generate_series(1, 500);;
ALTER TABLE placed SET TABLESPACE pg_default;;
DROP TABLESPACE place;;
REINDEX TABLE pg_class
";
