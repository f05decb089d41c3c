//! What is kept, how long, and that the rest goes.

use std::collections::BTreeMap;
use std::path::Path;

use pageserver::client::ClientError;
use pageserver::settings::Settings;
use pg::datadir::relation::RelTag;
use pg::lsn::Lsn;

use crate::cluster::{Cluster, Folder};
use crate::postgres::{current_lsn, stop_and_verify};
use crate::service::{Service, settings};

type Contents = BTreeMap<RelTag, Vec<u8>>;

/// Settings under which little is kept.
fn forgetful(settings: &Settings, retention_bytes: u64) -> Settings {
    Settings { retention_bytes, collection_interval_ms: 50, ..settings.clone() }
}

/// What the status tells; nothing while it starts.
fn lsn(text: Option<&String>) -> Lsn {
    text.and_then(|text| text.parse().ok()).unwrap_or(Lsn::INVALID)
}

/// Bytes of the layers of `main`.
fn layer_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder.join("timelines/main")).expect("there are layers");
    let sizes =
        entries.flatten().filter(|entry| entry.path().extension() == Some("layer".as_ref()));
    sizes.map(|entry| entry.metadata().map_or(0, |meta| meta.len())).sum()
}

fn is_forgotten(read: &Result<Contents, ClientError>) -> bool {
    matches!(read, Err(error) if error.to_string().contains("not kept any more"))
}

/// Work of all kinds, and the moments on the way with what there is at each.
fn work(cluster: &Cluster, service: &Service) -> Vec<(Lsn, Contents)> {
    let mut moments = Vec::new();
    let mut note = || {
        let now = current_lsn(cluster);
        service.wait_lsn(now);
        moments.push((now, service.contents("main", now).expect("it is kept")));
    };
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    // Every page of every moment is rebuilt: no more of them than it takes to get layers of all kinds.
    cluster.sql("DELETE FROM pgbench_accounts WHERE aid > 12000");
    cluster.sql("VACUUM FULL pgbench_accounts");
    cluster.sql("CREATE TABLE old AS SELECT i, repeat('x', 500) x FROM generate_series(1, 5000) i");
    note();
    for round in 0..6 {
        cluster.pgbench(&["-c", "2", "-t", "150"]);
        cluster.sql("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 3 = 0");
        match round {
            1 => drop(cluster.sql("DROP TABLE old")),
            2 => drop(cluster.sql("CREATE DATABASE copy STRATEGY file_copy")),
            3 => {
                cluster.sql("TRUNCATE pgbench_history");
                cluster.sql("VACUUM FULL pgbench_tellers");
                // No page, but a distance that the horizon can lie in.
                cluster.sql("SELECT pg_logical_emit_message(true, '', repeat('x', 4000000))");
            }
            4 => drop(cluster.sql("VACUUM pgbench_accounts")),
            _ => {}
        }
        note();
    }
    moments
}

#[test]
fn what_is_kept_stays_exactly_and_the_rest_goes() {
    let mut cluster = Cluster::start("lifecycle", &[], &["max_wal_size = 64MB"]);
    let folder = Folder::new("lifecycle-ps");
    let keep_all = settings(folder.path(), cluster.socket());
    let service = Service::start(keep_all.clone());
    service.wait_streaming();
    let moments = work(&cluster, &service);
    let (first, then) = &moments[1];
    service.branch("early", "main", &first.to_string()).expect("it is kept");
    let (leased, at_lease) = &moments[2];
    service.lease("main", *leased, Some(3600)).expect("it is kept");
    service.lease("early", *first, Some(3600)).expect("it is kept");
    let before = service.status();
    service.stop();

    // The first four are older than this, by far; the server goes on writing a little.
    let newest = moments.last().expect("there are some").0;
    let retention = newest.bytes_since(moments[4].0) + (1 << 20);
    let service = Service::start(forgetful(&keep_all, retention));
    let is_past = |moment: Lsn| {
        move |status: &pageserver::api::Status| lsn(status.oldest_lsn.as_ref()) > moment
    };
    service.wait("the horizon", is_past(moments[3].0));
    let status = service.wait("images", |status| status.image_layers > before.image_layers);
    let horizon = lsn(status.oldest_lsn.as_ref());
    let check = |service: &Service, every: usize| {
        for (number, (moment, contents)) in moments.iter().enumerate().step_by(every) {
            let read = service.contents("main", *moment);
            if *moment >= horizon || [1, 2].contains(&number) {
                assert!(read.expect("it is kept") == *contents, "moment {number} at {moment}");
            } else {
                assert!(is_forgotten(&read), "moment {number}: {:?}", read.map(|read| read.len()));
            }
        }
        assert!(service.contents("early", Lsn::MAX).expect("the branch is kept") == *then);
    };
    check(&service, 1);
    assert!(service.branch("x", "main", &moments[0].0.to_string()).is_err(), "it is gone");
    assert!(service.lease("main", moments[0].0, Some(60)).is_err(), "it is gone");
    service.branch("leased", "main", &leased.to_string()).expect("a lease keeps it");
    service.kill();

    // Pins are there again before anything can go.
    let service = Service::start(forgetful(&keep_all, retention));
    service.wait_streaming();
    check(&service, 4);
    service.lease("main", *leased, None).expect("there is one");
    assert!(service.contents("leased", Lsn::MAX).expect("the branch keeps it") == *at_lease);
    service.delete_branch("leased").expect("nothing comes from it");
    assert!(is_forgotten(&service.contents("main", *leased)), "nobody keeps it any more");
    service.lease("early", *first, None).expect("there is one");
    service.delete_branch("early").expect("nothing comes from it");
    assert!(is_forgotten(&service.contents("main", *first)), "nobody keeps it any more");
    service.stop();
    let had = layer_bytes(&folder.path());

    // Nothing but the newest moment: little more than one image is left.
    let service = Service::start(forgetful(&keep_all, 1));
    service.wait_streaming();
    cluster.sql("DROP DATABASE copy");
    let dropped = current_lsn(&cluster);
    cluster.sql("UPDATE pgbench_accounts SET abalance = abalance + 1");
    service.wait("the last horizon", is_past(dropped));
    // Although that came on top of it, less is there than before.
    service.wait("the rest gone", |status| {
        status.layer_bytes_removed > had / 4 && layer_bytes(&folder.path()) < had
    });
    assert!(stop_and_verify(&mut cluster, &service).is_identical());
    service.stop();
}

#[test]
fn at_its_limit_the_page_server_takes_in_no_more_and_says_so() {
    let mut cluster = Cluster::start("limits", &[], &[]);
    let folder = Folder::new("limits-ps");
    let unlimited = settings(folder.path(), cluster.socket());
    let service = Service::start(unlimited.clone());
    service.wait_streaming();
    let limit = service.status().disk_bytes + (24 << 20);
    service.stop();

    let service = Service::start(Settings { disk_bytes_max: limit, ..unlimited.clone() });
    service.wait_streaming();
    cluster.sql(
        "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 20) x FROM generate_series(1, 100000) i",
    );
    let says = |what: &str, status: &pageserver::api::Status| {
        status.error.as_ref().is_some_and(|error| error.message.contains(what))
    };
    let status = service.wait("the limit", |status| says("disk_bytes_max", status));
    assert!(status.disk_bytes < limit + (16 << 20), "{status:?}");
    assert!(lsn(status.flushed_lsn.as_ref()) < current_lsn(&cluster), "{status:?}");
    service.stop();

    let service = Service::start(unlimited);
    service.wait_lsn(current_lsn(&cluster));
    assert_eq!(service.status().error, None);
    assert!(stop_and_verify(&mut cluster, &service).is_identical());
    service.stop();
}
