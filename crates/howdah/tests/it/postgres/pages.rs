//! Pages as of any LSN, and the comparison of a stopped cluster with them.

use pg::page::PageBytes;
use pg::page::mask::{MaskOptions, PageKind, compare};

use crate::instance::{Folder, Instance};

/// The page that pageinspect sees.
fn raw_page(instance: &Instance, table: &str, block: u32) -> Box<PageBytes> {
    bytes(&instance.sql(&format!("SELECT encode(get_raw_page('{table}', {block}), 'hex')")))
}

fn page_at(instance: &Instance, relation: &str, block: u32, lsn: Option<&str>) -> Box<PageBytes> {
    let block = block.to_string();
    let mut arguments = vec!["page", "--json", "--rel", relation, "--block", &block];
    if let Some(lsn) = lsn {
        arguments.extend(["--lsn", lsn]);
    }
    let answer =
        instance.howdah(&arguments).unwrap_or_else(|error| panic!("{error}\n{}", instance.log()));
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    bytes(answer["hex"].as_str().expect("the bytes"))
}

fn bytes(hex: &str) -> Box<PageBytes> {
    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    let bytes: Vec<u8> =
        digits.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect();
    Box::new(bytes.try_into().expect("8192 bytes"))
}

/// The same but for what Postgres sets without WAL, and the checksum, which a page in memory does not have yet.
fn same(ours: &PageBytes, theirs: &PageBytes) -> bool {
    let options = MaskOptions { lsn: false, ..MaskOptions::POSTGRES };
    compare(Some(ours), theirs, PageKind::Heap, 0, options).is_none()
}

fn relation(instance: &Instance, table: &str) -> String {
    instance.sql(&format!(
        "SELECT coalesce(nullif(c.reltablespace, 0), d.dattablespace) || '/' || d.oid || '/' || pg_relation_filenode(c.oid) \
         FROM pg_class c, pg_database d WHERE c.oid = '{table}'::regclass AND d.datname = current_database()"
    ))
}

fn end_of_wal(instance: &Instance) -> String {
    instance.sql("SELECT pg_current_wal_flush_lsn()")
}

#[test]
fn a_page_is_what_postgres_had_at_that_moment() {
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    instance.sql("CREATE EXTENSION pageinspect");
    instance.sql("CREATE TABLE t (a int, b text)");
    instance.sql("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 200) i");
    let rel = relation(&instance, "t");
    let (then, early) = (end_of_wal(&instance), raw_page(&instance, "t", 0));
    assert!(same(&page_at(&instance, &rel, 0, Some(&then)), &early));
    instance.sql("UPDATE t SET b = 'short' WHERE a <= 10");
    instance.sql("DELETE FROM t WHERE a BETWEEN 20 AND 30");
    let late = raw_page(&instance, "t", 0);
    assert!(!same(&late, &early));
    assert!(same(&page_at(&instance, &rel, 0, Some(&end_of_wal(&instance))), &late));
    assert!(same(&page_at(&instance, &rel, 0, Some(&then)), &early));
    assert!(same(&page_at(&instance, &rel, 0, None), &late));
    let refused = instance.howdah(&["page", "--rel", "1663/5/4000000", "--block", "0"]);
    assert!(refused.expect_err("there is no such relation").contains("does not exist"));
}

#[test]
fn a_page_can_be_written_to_a_file() {
    let folder = Folder::new();
    let instance = Instance::start(&folder, "");
    let file = folder.path().join("page.bin").display().to_string();
    let rel = relation(&instance, "pg_class");
    instance.howdah(&["page", "--rel", &rel, "--block", "0", "--out", &file]).expect("it is there");
    assert_eq!(std::fs::metadata(&file).expect("it was written").len(), 8192);
    let text = instance.howdah(&["page", "--rel", &rel, "--block", "0"]).expect("it is there");
    assert!(text.contains("lsn ") && text.contains("\n0000  "), "{text}");
}

#[test]
fn a_stopped_cluster_has_no_difference_to_its_pages() {
    let folder = Folder::new();
    let instance = Instance::in_directory(&folder, "");
    instance.pgbench(&["-i", "-q", "-s", "1"]);
    for protocol in ["simple", "extended", "prepared"] {
        instance.pgbench(&["-n", "-M", protocol, "-c", "8", "-j", "2", "-t", "100"]);
    }
    instance.sql("VACUUM pgbench_accounts");
    instance.sql("CREATE DATABASE another");
    instance.post("/v1/postgres/stop");
    let data = folder.path().join("data/postgres").display().to_string();
    let report = instance.howdah(&["verify", "--json", "--data-dir", &data]);
    let report = report.unwrap_or_else(|error| panic!("{error}\n{}", instance.log()));
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["differences_found"], 0, "{report}");
    assert_eq!(report["unsupported_blocks"], 0, "{report}");
    assert!(report["blocks"].as_u64().expect("a number") > 2000, "{report}");
    instance.post("/v1/postgres/start");
    assert_eq!(instance.sql("SELECT count(*) FROM pgbench_accounts"), "100000");
}
