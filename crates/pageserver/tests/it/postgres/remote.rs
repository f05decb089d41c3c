//! The object store: everything local deleted, another page server taking over, the store away for a while, kills.

use std::path::Path;
use std::time::Duration;

use pageserver::api::{Phase, Status};
use pageserver::error::Error;
use pageserver::remote::recover::{Recovered, recover};
use pageserver::settings::Settings;
use pg::lsn::Lsn;
use runtime::clock;
use runtime::fs::blocking as fs;
use runtime::random::Rng;

use crate::cluster::{Cluster, Folder};
use crate::postgres::{current_lsn, stop_and_verify};
use crate::service::{Service, block_on, settings};
use crate::tools::{Restored, Tools, succeed};

/// Settings with a directory as the store, and a small window of loss.
fn stored(directory: &Folder, cluster: &Cluster, store: &Folder) -> Settings {
    Settings {
        store: store.path().join("store").display().to_string(),
        store_wal_interval_ms: 200,
        checkpoint_timeout_ms: 1000,
        ..settings(directory.path().join("own"), cluster.socket())
    }
}

fn lsn(text: Option<&String>) -> Lsn {
    text.and_then(|text| text.parse().ok()).unwrap_or(Lsn::INVALID)
}

fn uploaded(status: &Status) -> Lsn {
    lsn(status.store.as_ref().and_then(|store| store.uploaded_lsn.as_ref()))
}

/// Waits until all that is here is in the store, too, inventory included.
fn wait_uploaded(service: &Service, cluster: &Cluster) {
    let end = current_lsn(cluster);
    service.wait("the upload", |status| {
        let store = status.store.as_ref().expect("there is a store");
        uploaded(status) >= end
            && lsn(status.layered_lsn.as_ref()) >= end
            && store.waiting_bytes == 0
            && store.waiting_ms == 0
    });
}

fn recover_into(settings: &Settings, directory: &Path, all: bool) -> Result<Recovered, Error> {
    let settings = Settings { directory: directory.to_owned(), ..settings.clone() };
    block_on(async move { recover(&settings, all, |_progress| ()).await })
}

fn work(cluster: &Cluster) {
    cluster.pgbench(&["-c", "2", "-t", "150"]);
}

fn pause(milliseconds: u64) {
    block_on(async { clock::sleep(Duration::from_millis(milliseconds)).await });
}

/// What a server that is restored from the page service says of itself.
fn dump(cluster: &Cluster, tools: &Tools, service: &Service, at: Lsn, name: &str) -> String {
    let target = cluster.make_folder(name).join("data");
    let mut backup = tools.towards("pg_basebackup", service.address);
    backup.arg("-D").arg(&target).args(["-X", "fetch"]);
    backup.env("PGOPTIONS", format!("-c howdah.lsn={at}"));
    succeed(backup);
    let restored = Restored::start(tools, &target, "");
    let dump = restored.dump();
    restored.check();
    dump
}

#[test]
fn everything_local_deleted_comes_back_from_the_store() {
    let cluster = Cluster::start("remote", &["-k"], &["wal_keep_size = 1GB"]);
    let (tools, folder, store) =
        (Tools::of(&cluster), Folder::new("remote-ps"), Folder::new("remote-st"));
    let settings = stored(&folder, &cluster, &store);
    let service = Service::start(settings.clone());
    service.wait_streaming();
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    cluster.sql("CREATE TABLE dropped AS SELECT i FROM generate_series(1, 5000) i");
    work(&cluster);
    let moment = current_lsn(&cluster);
    service.wait_lsn(moment);
    service.branch("b", "main", &moment.to_string()).expect("it can be made");
    cluster.sql("DROP TABLE dropped");
    work(&cluster);
    wait_uploaded(&service, &cluster);
    let latest = current_lsn(&cluster);
    let (then, now) = (service.contents("main", moment), service.contents("main", latest));
    let (then, now) = (then.expect("readable"), now.expect("readable"));
    let dumped = dump(&cluster, &tools, &service, moment, "before");
    service.kill();
    std::fs::remove_dir_all(folder.path().join("own")).expect("it is ours");

    let recovered = recover_into(&settings, &settings.directory, false).expect("recovered");
    assert_eq!(recovered.timelines, 2);
    assert!(recovered.end >= latest, "{recovered:?}, {latest}");
    let again = recover_into(&settings, &settings.directory, false).expect_err("it is not empty");
    assert!(again.to_string().contains("is not empty"), "{again}");
    let service = Service::start(Settings { local_layer_bytes_max: 1, ..settings.clone() });
    service.wait_lsn(latest);
    let status = service.status();
    // The start has fetched what holds the newest counters; the rest comes when it is read.
    let local = status.store.expect("a store").local_layer_bytes;
    assert!(local < status.layer_bytes, "{local} of {} bytes are here", status.layer_bytes);
    assert!(service.contents("main", moment).expect("readable") == then);
    assert!(service.contents("b", Lsn::MAX).expect("readable") == then);
    assert!(service.contents("main", latest).expect("readable") == now);
    assert!(service.status().store.expect("a store").fetched_bytes > 0);
    assert_eq!(dump(&cluster, &tools, &service, moment, "after"), dumped);
    // It goes on following, in a generation of its own, and what it fetched goes again.
    service.wait_streaming();
    let mut cluster = cluster;
    work(&cluster);
    wait_uploaded(&service, &cluster);
    let status = service.wait("room", |status| {
        status.store.as_ref().is_some_and(|store| store.local_layer_bytes == 0)
    });
    assert_eq!(status.store.expect("a store").generation, 2);
    assert!(stop_and_verify(&mut cluster, &service).is_identical());
    service.stop();

    // Once more, with everything fetched at once: without the store it is a page server, too.
    let whole = folder.path().join("whole");
    recover_into(&settings, &whole, true).expect("recovered");
    let alone = Settings { store: String::new(), directory: whole, ..settings };
    let service = Service::start(alone);
    service.wait_lsn(latest);
    assert!(service.contents("main", moment).expect("readable") == then);
    assert!(service.contents("main", latest).expect("readable") == now);
}

#[test]
fn half_a_recovery_counts_for_nothing() {
    let cluster = Cluster::start("half", &[], &["wal_keep_size = 1GB"]);
    let (folder, store) = (Folder::new("half-ps"), Folder::new("half-st"));
    let settings = stored(&folder, &cluster, &store);
    let service = Service::start(settings.clone());
    service.wait_streaming();
    service.branch("b", "main", "now").expect("it can be made");
    // The branch is in the store when it is in what is recovered from there.
    let recovered = (0..600).map(|number| {
        pause(100);
        let directory = folder.path().join(format!("half{number}"));
        let recovered = recover_into(&settings, &directory, false);
        (directory, recovered.map_or(0, |recovered| recovered.timelines))
    });
    let (directory, _) = recovered.into_iter().find(|found| found.1 == 2).expect("it comes there");
    service.stop();
    let half = Settings { directory, ..settings.clone() };
    // What makes it whole is written last.
    fs::remove_file(half.directory.join("base.manifest")).expect("it is there");
    let service = Service::start(half);
    let status = service.wait("a refusal", |status| {
        status.store.as_ref().is_some_and(|store| store.error.is_some())
    });
    let refused = status.store.and_then(|store| store.error).expect("just seen");
    assert!(refused.contains("another page server"), "{refused}");
    assert!(service.delete_branch("b").is_err(), "there is none");
    service.stop();
    let whole = folder.path().join("whole");
    let recovered = recover_into(&settings, &whole, false).expect("nothing is lost");
    assert_eq!(recovered.timelines, 2);
}

/// A page server recovered from the store that another one still writes. It is refused as long as that one goes on: merging
/// and the removal of WAL change the store, too, for a while after the last record.
fn overtake(folder: &Folder, settings: &Settings) -> Service {
    let attempt = |number: u32| {
        let directory = folder.path().join(format!("newer-{number}"));
        recover_into(settings, &directory, false).expect("recovered");
        let newer = Service::start(Settings { directory, ..settings.clone() });
        let is_claimed =
            |status: &Status| status.store.as_ref().is_some_and(|store| store.generation > 1);
        let answered = |status: &Status| status.phase == Phase::Failed || is_claimed(status);
        if is_claimed(&newer.wait("an answer", answered)) {
            return Some(newer);
        }
        newer.stop();
        None
    };
    (0..100).find_map(attempt).expect("the older one comes to rest")
}

#[test]
fn of_two_page_servers_the_older_stops() {
    let cluster = Cluster::start("remote-two", &[], &[]);
    let (folder, store) = (Folder::new("two-ps"), Folder::new("two-st"));
    let settings = stored(&folder, &cluster, &store);
    let older = Service::start(settings.clone());
    older.wait_streaming();
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    wait_uploaded(&older, &cluster);
    let stranger = Settings {
        directory: folder.path().join("stranger"),
        slot: "s".to_owned(),
        ..settings.clone()
    };
    let stranger = Service::start(stranger);
    let status = stranger.wait("a refusal", |status| status.phase == Phase::Failed);
    let message = status.error.expect("it says why").message;
    assert!(message.contains("the history of another page server"), "{message}");
    stranger.stop();

    // One that has gone on since is not overtaken by what was recovered before.
    let late = folder.path().join("late");
    recover_into(&settings, &late, false).expect("recovered");
    work(&cluster);
    wait_uploaded(&older, &cluster);
    let late = Service::start(Settings { directory: late, ..settings.clone() });
    let status = late.wait("a refusal", |status| status.phase == Phase::Failed);
    let message = status.error.expect("it says why").message;
    assert!(message.contains("has changed since this directory was recovered"), "{message}");
    late.stop();

    let newer = overtake(&folder, &settings);
    let status = older.wait("the end", |status| status.phase == Phase::Failed);
    let message = status.error.expect("it says why").message;
    assert!(message.contains("another page server has taken over"), "{message}");
    older.stop();
    newer.wait_streaming();
    work(&cluster);
    wait_uploaded(&newer, &cluster);
    // The older one does not come back.
    let older = Service::start(settings);
    let status = older.wait("a refusal", |status| status.phase == Phase::Failed);
    let message = status.error.expect("it says why").message;
    assert!(message.contains("another page server has taken over"), "{message}");
    let mut cluster = cluster;
    assert!(stop_and_verify(&mut cluster, &newer).is_identical());
}

#[test]
fn a_store_that_is_away_holds_up_the_intake_at_its_limit_only() {
    let cluster = Cluster::start("remote-away", &[], &[]);
    let (folder, store) = (Folder::new("away-ps"), Folder::new("away-st"));
    let limit = 8 << 20;
    let settings = Settings { store_backlog_bytes_max: limit, ..stored(&folder, &cluster, &store) };
    let service = Service::start(settings);
    service.wait_streaming();
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    wait_uploaded(&service, &cluster);
    let place = store.path().join("store");
    fs::rename(&place, store.path().join("away")).expect("it is ours");
    // A file in its place: no directory can be made there.
    fs::write_atomic(&place, b"").expect("it is ours");
    let before = current_lsn(&cluster);
    cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 20000) i");
    let small = current_lsn(&cluster);
    service.wait_lsn(small);
    let status = service.wait("an error", |status| {
        status.store.as_ref().is_some_and(|store| store.error.is_some())
    });
    assert!(status.phase == Phase::Streaming && status.error.is_none(), "{status:?}");
    // Far more than may wait.
    cluster.pgbench(&["-i", "-s", "4", "-q"]);
    let all = current_lsn(&cluster);
    assert!(all.bytes_since(before) > 4 * limit, "{before} to {all}");
    service.wait("the limit", |status| {
        status.store.as_ref().is_some_and(|store| store.waiting_bytes > limit)
    });
    pause(1000);
    let status = service.status();
    let ahead = lsn(status.flushed_lsn.as_ref()).bytes_since(uploaded(&status));
    assert!(ahead < 2 * limit, "{ahead} bytes wait");
    assert!(lsn(status.ingested_lsn.as_ref()) < all);
    fs::remove_file(&place).expect("it is ours");
    fs::rename(store.path().join("away"), &place).expect("it is ours");
    wait_uploaded(&service, &cluster);
    assert_eq!(service.status().store.expect("a store").error, None);
    let mut cluster = cluster;
    assert!(stop_and_verify(&mut cluster, &service).is_identical());
}

#[test]
fn whenever_it_is_killed_the_store_holds_a_whole_page_server() {
    let cluster = Cluster::start("remote-kills", &[], &["wal_keep_size = 1GB"]);
    let (folder, store) = (Folder::new("kills-ps"), Folder::new("kills-st"));
    let settings = stored(&folder, &cluster, &store);
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    let service = Service::start(settings.clone());
    service.wait_streaming();
    wait_uploaded(&service, &cluster);
    service.kill();
    let mut rng = Rng::from_os();
    for round in 0..5 {
        let service = Service::start(settings.clone());
        service.wait_streaming();
        let (made, name) = (rng.below(2) == 0, format!("b{round}"));
        if made {
            service.branch(&name, "main", "").expect("it can be made");
        }
        cluster.pgbench(&["-c", "2", "-T", "1"]);
        pause(rng.below(1500));
        service.kill();
        let copy = folder.path().join(format!("copy{round}"));
        let recovered = recover_into(&settings, &copy, true).expect("the store has a page server");
        let end = recovered.end;
        let copy = Settings {
            directory: copy,
            store: String::new(),
            slot: format!("copy{round}"),
            ..settings.clone()
        };
        let copy = Service::start(copy);
        let seen = copy.wait_streaming();
        let original = Service::start(settings.clone());
        original.wait_streaming();
        let mut at = lsn(seen.ingested_lsn.as_ref());
        at = at.min(lsn(original.status().ingested_lsn.as_ref()));
        assert!(at >= Lsn(end.0.saturating_sub(1 << 20)), "{at}, {end}");
        let contents = |service: &Service| service.contents("main", at).expect("readable");
        assert!(contents(&copy) == contents(&original), "round {round}: as of {at}");
        copy.stop();
        original.kill();
    }
}

#[test]
fn what_nothing_names_is_seen_as_litter_and_left_until_it_is_old() {
    let cluster = Cluster::start("remote-litter", &[], &[]);
    let (folder, store) = (Folder::new("litter-ps"), Folder::new("litter-st"));
    let settings = stored(&folder, &cluster, &store);
    let service = Service::start(settings.clone());
    service.wait_streaming();
    cluster.pgbench(&["-i", "-s", "1", "-q"]);
    service.branch("b", "main", "").expect("it can be made");
    work(&cluster);
    wait_uploaded(&service, &cluster);
    let status = service.status().store.expect("a store");
    assert_eq!((status.litter_objects, status.litter_removed), (0, 0), "{status:?}");
    service.stop();

    // A layer and WAL of a branch that is gone, and a file of somebody's.
    let place = store.path().join("store/timelines");
    let gone = place.join("gone.1.9");
    fs::create_dir_all(gone.join("wal")).expect("it is ours");
    let layer = gone.join("0000010000000001.layer");
    let wal = format!("wal/{:016x}-{:016x}-{:016x}-{:08x}", 0, 8192, 1 << 16, 7);
    let planted = [layer, gone.join(wal), gone.join("notes.txt")];
    for file in &planted {
        fs::write_atomic(file, &[0; 8192]).expect("it is ours");
    }
    let service = Service::start(settings);
    service.wait_streaming();
    service.wait("a look", |status| {
        status.store.as_ref().is_some_and(|store| store.litter_objects > 0)
    });
    work(&cluster);
    wait_uploaded(&service, &cluster);
    let status = service.status().store.expect("a store");
    assert!(status.litter_objects >= 2 && status.litter_bytes >= 2 * 8192, "{status:?}");
    assert_eq!(status.litter_removed, 0, "it may be on its way to a name");
    assert!(planted.iter().all(|file| file.exists()));
    let mut cluster = cluster;
    assert!(stop_and_verify(&mut cluster, &service).is_identical());
}
