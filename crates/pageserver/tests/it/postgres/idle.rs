//! What nobody writes to any more comes into layers all the same, after `checkpoint_timeout_ms`.

use pageserver::settings::Settings;
use pg::lsn::Lsn;

use super::writable::compute;
use crate::cluster::{Cluster, Folder};
use crate::postgres::current_lsn;
use crate::service::{Service, settings};
use crate::tools::Tools;

#[test]
fn an_idle_timeline_and_a_detached_branch_come_into_layers_after_the_timeout() {
    let mut cluster = Cluster::start("idle", &[], &["autovacuum = off"]);
    let (tools, folder) = (Tools::of(&cluster), Folder::new("idle-ps"));
    let never = Settings {
        checkpoint_bytes: 1 << 30,
        checkpoint_timeout_ms: 3_600_000,
        ..settings(folder.path(), cluster.socket())
    };
    let soon = Settings { checkpoint_timeout_ms: 300, ..never.clone() };
    let service = Service::start(never);
    service.wait_streaming();
    cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    service.branch("b", "main", "").expect("it can be made");
    let mut writer = compute((&cluster, &tools), &service, ("b", "writer"));
    service.attach("b", &writer.socket(), None).expect("it was started there");
    writer.sql("INSERT INTO t SELECT i FROM generate_series(1, 50) i");
    writer.stop();
    service.detach("b");
    cluster.sql("INSERT INTO t SELECT i FROM generate_series(1, 7) i");
    service.wait_lsn(current_lsn(&cluster));
    cluster.stop("fast");
    let ends = ["main", "b"].map(|name| (name, service.end_of(name)));
    for (name, end) in ends {
        assert!(service.layered(name) < end, "of {name} something is not in layers");
    }
    let contents = |service: &Service| {
        ends.map(|(name, _)| service.contents(name, Lsn::MAX).expect("it can be read"))
    };
    let then = contents(&service);
    service.stop();

    // No server is there: nobody receives anything.
    let service = Service::start(soon);
    service.wait_lsn(ends[0].1);
    for (name, end) in ends {
        service.wait("layers", |_| service.layered(name) >= end);
        assert_eq!(service.end_of(name), end);
    }
    assert!(contents(&service) == then);
    service.stop();
}
