//! What happens on the primary while it is followed: PostgreSQL's regression suite beside pgbench, or a little of both.

use std::process::{Child, Stdio};

use super::server::{Server, succeed};
use crate::suites;

/// DDL of the short run: each of these ends up differently from moment to moment.
const DDL: [&str; 9] = [
    "CREATE TABLE d (i int PRIMARY KEY, t text, p point, a int[]); CREATE INDEX ON d USING gist (p); \
     CREATE INDEX ON d USING gin (a); CREATE INDEX ON d USING hash (t); CREATE INDEX ON d USING brin (i)",
    "INSERT INTO d SELECT i, md5(i::text), point(i, -i), ARRAY[i, i % 7] FROM generate_series(1, 20000) i",
    "CREATE SEQUENCE s; SELECT nextval('s') FROM generate_series(1, 100)",
    "UPDATE d SET t = t || 'x' WHERE i % 3 = 0; CREATE UNLOGGED TABLE u AS SELECT * FROM d; \
     CREATE INDEX ON u (i); CREATE INDEX ON u USING gin (a)",
    "BEGIN; DELETE FROM d WHERE i % 5 = 0; PREPARE TRANSACTION 'later'",
    "CREATE DATABASE copied STRATEGY file_copy; CREATE DATABASE logged STRATEGY wal_log",
    "CREATE TABLE f AS SELECT * FROM d; VACUUM FULL f",
    "COMMIT PREPARED 'later'; CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM d; CREATE ROLE somebody",
    "SELECT lo_from_bytea(0, repeat('x', 100000)::bytea); TRUNCATE u; DROP DATABASE copied; ANALYZE",
];

/// The programs that write, until they have ended.
pub(crate) struct Load {
    children: Vec<Child>,
    /// pgbench goes on until these have ended.
    leading: usize,
}

impl Load {
    /// pgbench alone, and some DDL.
    pub(crate) fn short(primary: &Server<'_>) -> Result<Load, String> {
        let mut ddl = primary.client("psql");
        ddl.args(["-Xq", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"]);
        for statement in DDL {
            // Each by itself: some must not be in a transaction with others.
            for one in statements(statement) {
                ddl.args(["-c", &one]);
            }
            ddl.args(["-c", "SELECT pg_sleep(1)"]);
        }
        let ddl = ddl.spawn().map_err(|error| format!("psql: {error}"))?;
        Ok(Load { children: vec![ddl, bench(primary)?], leading: 1 })
    }

    /// PostgreSQL's regression suite, and pgbench beside it.
    pub(crate) fn full(primary: &Server<'_>, places: &suites::Places) -> Result<Load, String> {
        let host = primary.socket().parent().map(|folder| folder.display().to_string());
        let script = suites::regression_script(places, &host.unwrap_or_default())?;
        let mut suite = super::server::Programs { bin: places.bin.clone(), user: places.user }
            .command("/bin/sh");
        suite.args(["-c", &script]);
        let repeat = suites::repeat_file(places);
        std::fs::write(&repeat, "").map_err(|error| format!("{}: {error}", repeat.display()))?;
        let suite = suite.spawn().map_err(|error| format!("sh: {error}"))?;
        Ok(Load { children: vec![suite, bench(primary)?], leading: 1 })
    }

    /// Whether what leads has come to its end; the rest is ended then. Its exit status is not ours to judge unless
    /// `must_succeed`: the suite's tests disturb each other beside pgbench, and have written their WAL.
    pub(crate) fn is_over(&mut self, must_succeed: bool) -> Result<bool, String> {
        for child in self.children.iter_mut().take(self.leading) {
            match child.try_wait().map_err(|error| error.to_string())? {
                None => return Ok(false),
                Some(status) if must_succeed && !status.success() => {
                    return Err(format!("the load ended: {status}"));
                }
                Some(_status) => {}
            }
        }
        self.end();
        Ok(true)
    }

    fn end(&mut self) {
        for child in &mut self.children {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn statements(text: &str) -> Vec<String> {
    match text.starts_with("BEGIN") {
        // psql sends these as one message, and PREPARE ends the block.
        true => vec![text.to_owned()],
        false => text.split("; ").map(str::to_owned).collect(),
    }
}

/// Fills a database `bench` and begins to write to it.
fn bench(primary: &Server<'_>) -> Result<Child, String> {
    primary.sql("postgres", "CREATE DATABASE bench")?;
    let mut fill = primary.client("pgbench");
    fill.args(["-i", "-q", "-s", "5", "bench"]);
    succeed(fill)?;
    let mut write = primary.client("pgbench");
    // A rate, so that the suite has its share of a small machine.
    write.args(["-n", "-c", "4", "-R", "300", "-T", "3600", "bench"]);
    write.stdout(Stdio::null()).stderr(Stdio::null());
    write.spawn().map_err(|error| format!("pgbench: {error}"))
}
