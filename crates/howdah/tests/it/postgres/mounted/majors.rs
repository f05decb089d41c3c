//! Servers of other majors on a mount, as primary and on a branch, before and after a new start. 17 reads several blocks at
//! once, 18 by processes of its own, and can copy a database by `copy_file_range`.

use crate::compute::{branch, can_mount};
use crate::instance::{Folder, Instance};

const SUMS: &str = "SELECT count(*), sum(i), sum(length(filler)) FROM t";

/// What a server does to many blocks at a time.
fn work(instance: &Instance, copying: &str) {
    instance.sql("CREATE TABLE wide (filler text)");
    instance.sql("COPY wide FROM PROGRAM 'seq -f %0200.0f 1 20000'");
    instance.sql("CREATE TABLE t (i int, filler text)");
    instance.sql("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 60000) i");
    instance.sql("CREATE INDEX ON t (i)");
    instance.sql("CREATE TABLE cut AS SELECT * FROM t");
    for sql in ["DELETE FROM cut WHERE i > 1000", "VACUUM cut", "VACUUM FULL cut"] {
        instance.sql(sql);
    }
    instance.sql("INSERT INTO cut SELECT * FROM t");
    instance.sql("CHECKPOINT");
    // A template must have no other session: the pooler keeps one of each database that is used.
    let copied = format!("{copying}CREATE DATABASE copied TEMPLATE template0 STRATEGY file_copy");
    let arguments = ["-Xq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"];
    let mut statements: Vec<&str> = Vec::new();
    for statement in copied.split(';') {
        statements.extend(["-c", statement]);
    }
    instance.client("psql", &[&arguments[..], &statements].concat()).expect("it is copied");
}

fn works_on_a_mount(major: u32, copying: &str) {
    if !can_mount() || !runtime::identity::is_root() {
        return;
    }
    let folder = Folder::new();
    let Some(instance) = Instance::of_major(major, &folder, "mount") else { return };
    let version = instance.sql("SHOW server_version_num");
    assert!(version.starts_with(&major.to_string()), "{version}");
    work(&instance, copying);
    let expected = instance.sql(SUMS);
    assert_eq!(expected, "60000|1800030000|12000000");
    branch(&instance, "b");
    let sql = |instance: &Instance, database: &str, sql: &str| {
        let answer = instance.client("psql", &["-XAtq", "-d", database, "-c", sql]);
        answer.unwrap_or_else(|said| panic!("{sql} in {database}: {said}\n{}", instance.log()))
    };
    instance.sql("DROP TABLE t");
    // Blocks that come from the page server, several of them at once.
    assert_eq!(sql(&instance, "postgres@b", SUMS), expected);
    sql(&instance, "postgres@b", "INSERT INTO cut SELECT * FROM t");
    assert_eq!(sql(&instance, "postgres@b", "SELECT count(*) FROM cut"), "121000");
    assert_eq!(sql(&instance, "copied", "SELECT count(*) > 300 FROM pg_class"), "t");
    // Another server, which has nothing but what the page server has.
    let (status, log) = instance.stop("-INT");
    assert!(status.success(), "{log}");
    let instance = Instance::of_major(major, &folder, "mount").expect("it is still here");
    assert_eq!(instance.sql("SELECT count(*) FROM cut"), "61000");
    assert_eq!(instance.sql("SELECT count(*), sum(filler::numeric) FROM wide"), "20000|200010000");
    assert_eq!(sql(&instance, "copied", "SELECT count(*) > 300 FROM pg_class"), "t");
    assert_eq!(sql(&instance, "postgres@b", "SELECT count(*) FROM cut"), "121000");
}

#[test]
fn postgres_17_works_on_a_mount() {
    works_on_a_mount(17, "");
}

#[test]
fn postgres_18_works_on_a_mount() {
    works_on_a_mount(18, "SET file_copy_method = clone;");
}
