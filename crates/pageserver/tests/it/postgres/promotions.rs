//! Standbys that are promoted: the page server goes on to their timeline, or says why it cannot.

use std::path::Path;

use pageserver::api::Phase;
use pageserver::client::Client;
use pageserver::verify::verify;
use pg::lsn::Lsn;

use crate::cluster::{Cluster, Folder};
use crate::postgres::{current_lsn, show};
use crate::service::{Service, block_on, settings};
use crate::tools::{Restored, Tools, succeed};

const SETTINGS: &[&str] = &["wal_keep_size = 1GB", "autovacuum = off"];

/// A standby of the server whose socket is in `folder`, in a folder of its own.
fn standby<'t>(
    cluster: &Cluster,
    tools: &'t Tools,
    (folder, port): (&Path, u16),
    name: &str,
) -> Restored<'t> {
    let target = cluster.make_folder(name).join("data");
    let mut backup = tools.command("pg_basebackup");
    backup.arg("-h").arg(folder).args(["-p", &port.to_string(), "-c", "fast"]);
    backup.arg("-D").arg(&target);
    succeed(backup);
    succeed(tools.shell(&format!("touch {}/standby.signal", target.display())));
    follow(tools, &target, (folder, port))
}

fn follow<'t>(tools: &'t Tools, data: &Path, (folder, port): (&Path, u16)) -> Restored<'t> {
    let source = format!("host={} port={port} user=postgres", folder.display());
    let settings = format!(
        "-c \"primary_conninfo={source}\" -c wal_retrieve_retry_interval=200ms -c wal_receiver_status_interval=1"
    );
    Restored::start(tools, data, &settings)
}

fn wait_replayed(standby: &Restored<'_>, lsn: Lsn) {
    while standby.sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")) != "t" {
        block_on(async { runtime::clock::sleep(std::time::Duration::from_millis(50)).await });
    }
}

/// The end of the WAL of a promoted server.
fn end_of(server: &Restored<'_>) -> Lsn {
    let text = server.sql("SELECT pg_current_wal_insert_lsn()");
    let next: Lsn = text.parse().expect("Postgres tells an LSN");
    if next.0 % 8192 <= 40 { Lsn(next.0 - next.0 % 8192) } else { next }
}

fn fill(sql: impl Fn(&str) -> String, name: &str) {
    sql(&format!(
        "CREATE TABLE {name} AS SELECT i, repeat('x', 100) x FROM generate_series(1, 9000) i"
    ));
    sql(&format!("CREATE INDEX ON {name} (i); UPDATE {name} SET i = -i WHERE i % 7 = 0"));
}

fn verify_stopped(service: &Service, server: &mut Restored<'_>) {
    server.stop();
    let (login, data) = (service.login("main"), server.data.clone());
    let report = block_on(async move {
        let client = Client::log_in(&login).await.expect("we are let in");
        verify(&data, client, |_progress| {}).await.expect("the cluster can be compared")
    });
    if !report.is_identical() {
        show(&report);
    }
    assert!(report.is_identical());
}

#[test]
fn a_promoted_standby_is_followed_to_its_timeline() {
    let cluster = Cluster::start("promoted", &["--wal-segsize", "1"], SETTINGS);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("promoted-ps"));
    let mut settings = settings(folder.path(), cluster.socket());
    let service = Service::start(settings.clone());
    service.wait_streaming();
    let first = cluster.sql("CREATE TABLE t (); SELECT pg_walfile_name(pg_switch_wal())");
    fill(|sql| cluster.sql(sql), "one");
    let mut standby = standby(&cluster, &tools, (cluster.folder(), 5432), "standby");
    service.stop();

    // It streams from the standby, and goes on when that is promoted.
    settings.server = standby.socket();
    let service = Service::start(settings.clone());
    service.wait_streaming();
    fill(|sql| cluster.sql(sql), "two");
    let before = current_lsn(&cluster);
    service.wait_lsn(before);
    let then = service.contents("main", before).expect("main can be read");
    service.branch("b", "main", &before.to_string()).expect("it can be made");
    wait_replayed(&standby, before);
    standby.sql("SELECT pg_promote()");
    standby.wait_for_promotion();
    fill(|sql| standby.sql(sql), "three");
    let end = end_of(&standby);
    let status = service.wait_lsn(end);
    assert_eq!((status.timeline, status.error), (Some(2), None));
    assert!(service.contents("main", before).expect("main can be read") == then);
    service.kill();
    let service = Service::start(settings);
    assert_eq!(service.wait_streaming().timeline, Some(2));
    assert!(service.contents("b", Lsn::MAX).expect("the branch can be read") == then);

    // What it received can be received from it.
    let end = end_of(&standby);
    service.wait_lsn(end);
    let target = cluster.make_folder("received");
    let segment = cluster.data().join("pg_wal").join(&first);
    succeed(tools.shell(&format!("cp {} {}", segment.display(), target.display())));
    let mut receive = tools.towards("pg_receivewal", service.address);
    receive.arg("-D").arg(&target).args(["--no-loop", "--endpos", &end.to_string()]);
    succeed(receive);
    let compared = format!(
        "set -e; cd {}; cmp 00000002.history {own}/00000002.history; \
         for f in *[0-9A-F]; do if [ -e {own}/$f ]; then d={own}; else d={main}; fi; cmp $f $d/$f; done; \
         ls 00000002*[0-9A-F] | wc -l",
        target.display(),
        own = standby.data.join("pg_wal").display(),
        main = cluster.data().join("pg_wal").display(),
    );
    let count: u32 = succeed(tools.shell(&compared)).trim().parse().expect("a number");
    assert!(count > 1, "{count} segments of the second timeline");

    // Moments on both sides of the change can be started on.
    for (name, at, timeline) in [("early", Some(before), 1), ("late", None, 2)] {
        let target = cluster.make_folder(name).join("data");
        let mut backup = tools.towards("pg_basebackup", service.address);
        backup.arg("-D").arg(&target).args(["-X", "fetch"]);
        if let Some(lsn) = at {
            backup.env("PGOPTIONS", format!("-c howdah.lsn={lsn}"));
        }
        succeed(backup);
        let restored = Restored::start(&tools, &target, "");
        assert_eq!(restored.sql("SELECT count(*) FROM two"), "9000");
        let sql = "SELECT timeline_id FROM pg_control_checkpoint()";
        assert_eq!(restored.sql(sql), timeline.to_string());
        restored.check();
    }
    verify_stopped(&service, &mut standby);
    service.stop();
}

#[test]
fn two_promotions_while_the_page_server_was_away_are_made_up_for() {
    let mut cluster = Cluster::start("twice", &["--wal-segsize", "1"], SETTINGS);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("twice-ps"));
    let mut settings = settings(folder.path(), cluster.socket());
    let service = Service::start(settings.clone());
    service.wait_streaming();
    let here = (cluster.folder().to_owned(), 5432);
    let next = standby(&cluster, &tools, (&here.0, here.1), "next");
    let mut last = standby(&cluster, &tools, (&here.0, here.1), "last");
    fill(|sql| cluster.sql(sql), "one");
    service.wait_lsn(current_lsn(&cluster));
    service.stop();
    fill(|sql| cluster.sql(sql), "two");
    let before = current_lsn(&cluster);
    wait_replayed(&next, before);
    wait_replayed(&last, before);
    cluster.stop("immediate");
    next.sql("SELECT pg_promote()");
    next.wait_for_promotion();
    last.stop();
    let folder_of_next = next.data.parent().expect("it is in a folder").to_owned();
    let mut last = {
        let data = last.data.clone();
        drop(last);
        follow(&tools, &data, (&folder_of_next, 5499))
    };
    fill(|sql| next.sql(sql), "three");
    wait_replayed(&last, end_of(&next));
    next.kill();
    last.sql("SELECT pg_promote()");
    last.wait_for_promotion();
    fill(|sql| last.sql(sql), "four");
    settings.server = last.socket();
    let service = Service::start(settings);
    let status = service.wait_lsn(end_of(&last));
    assert_eq!(status.timeline, Some(3));
    let history = std::fs::read_dir(folder.path().join("wal")).expect("there is WAL");
    let names = history.map(|entry| entry.expect("it can be read").file_name());
    assert_eq!(names.filter(|name| name.to_string_lossy().ends_with(".history")).count(), 2);
    verify_stopped(&service, &mut last);
    service.stop();
}

#[test]
fn a_timeline_that_left_before_what_is_here_is_refused() {
    let cluster = Cluster::start("behind", &[], SETTINGS);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("behind-ps"));
    let mut settings = settings(folder.path(), cluster.socket());
    let service = Service::start(settings.clone());
    service.wait_streaming();
    let mut behind = standby(&cluster, &tools, (cluster.folder(), 5432), "standby");
    behind.stop();
    cluster.sql("CREATE TABLE unseen AS SELECT 1 AS one");
    let end = current_lsn(&cluster);
    service.wait_lsn(end);
    service.stop();
    let data = behind.data.clone();
    drop(behind);
    succeed(
        tools.shell(&format!("rm {}/standby.signal; touch {0}/recovery.signal", data.display())),
    );
    let behind = Restored::start(&tools, &data, "-c restore_command=false");
    behind.wait_for_promotion();
    behind.sql("CREATE TABLE other AS SELECT i FROM generate_series(1, 1000) i");
    settings.server = behind.socket();
    let service = Service::start(settings);
    let status = service.wait("the refusal", |status| status.phase == Phase::Failed);
    let problem = status.error.expect("it says why");
    assert!(problem.message.contains("timeline 2 left timeline 1 at"), "{}", problem.message);
    assert!(service.contents("main", end).is_ok(), "what is here can be read");
    service.stop();
}
