//! Ceph on loopback, for tests: a monitor, three OSDs that each have every object, and the object gateway, which speaks
//! S3's protocol. The programs come from Debian's packages, unpacked into `target/ceph`; nothing of the machine changes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bench::process::{self, Daemon};
use crate::bench::server::free_port;
use crate::debian::{self, Apt};
use crate::servers;

const SUITE: &str = "bookworm";
const PACKAGES: [&str; 4] = ["ceph-mon", "ceph-osd", "radosgw", "ceph-common"];
const OSDS: usize = 3;
/// Of the gateway's only user.
pub(crate) const KEY: &str = "testing";
pub(crate) const BUCKET: &str = "accept";
/// SHA-256 of the empty string.
const NOTHING_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// A daemon of it takes seconds to come up, minutes where the machine is busy.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running cluster; its daemons end when it is dropped.
pub(crate) struct Ceph {
    tree: PathBuf,
    folder: PathBuf,
    pub(crate) endpoint: String,
    osds: Vec<Daemon>,
    others: Vec<Daemon>,
}

impl Ceph {
    /// Makes a cluster in a folder, and a bucket in it.
    pub(crate) fn start(folder: &Path) -> Result<Ceph, String> {
        let tree = obtain()?;
        let _old = fs::remove_dir_all(folder);
        for below in ["mon", "rgw"] {
            fs::create_dir_all(folder.join(below)).map_err(|error| error.to_string())?;
        }
        let monitor = free_port()?;
        let mut ceph = Ceph {
            tree,
            folder: folder.to_owned(),
            endpoint: String::new(),
            osds: Vec::new(),
            others: Vec::new(),
        };
        let id = uuid()?;
        let configuration = ceph.configuration(&id, monitor)?;
        let written = fs::write(ceph.file("ceph.conf"), configuration)
            .and_then(|()| fs::write(ceph.file("keyring"), ""));
        written.map_err(|error| error.to_string())?;
        ceph.start_monitor(&id, monitor)?;
        ceph.start_osds()?;
        ceph.start_gateway()?;
        ceph.make_bucket()?;
        Ok(ceph)
    }

    /// Ends an OSD by SIGKILL. Two are left, which is enough.
    pub(crate) fn kill_osd(&self) -> Result<(), String> {
        let osd = self.osds.last().ok_or("there is no OSD")?;
        process::output(&["kill", "-9", &osd.pid().to_string()], None).map(drop)
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn libraries(&self) -> Result<PathBuf, String> {
        debian::loader(&self.tree).map(|(_loader, libraries)| libraries)
    }

    /// Everything on loopback, without authentication within the cluster.
    fn configuration(&self, id: &str, monitor: u16) -> Result<String, String> {
        let (at, libraries) = (self.folder.display(), self.libraries()?);
        let libraries = libraries.display();
        let mut text = format!(
            "[global]\nfsid = {id}\nmon_host = [v2:127.0.0.1:{monitor}]\npublic_network = 127.0.0.0/8\n\
             cluster_network = 127.0.0.0/8\nrun_dir = {at}\nlog_file = {at}/$name.log\n\
             mon_cluster_log_file = {at}/cluster.log\nadmin_socket = {at}/$name.asok\ncrash_dir = {at}\n\
             mon_data = {at}/mon\nosd_data = {at}/osd.$id\nkeyring = {at}/keyring\nrgw_data = {at}/rgw\n\
             osd_class_dir = {libraries}/rados-classes\n\
             erasure_code_dir = {libraries}/ceph/erasure-code\nplugin_dir = {libraries}/ceph\n"
        );
        for side in ["cluster", "service", "client"] {
            text.push_str(&format!("auth_{side}_required = none\n"));
            // Without keys nothing can be encrypted, which the gateway would insist on.
            text.push_str(&format!("ms_{side}_mode = crc\nms_mon_{side}_mode = crc\n"));
        }
        text.push_str(
            "osd_pool_default_size = 3\nosd_pool_default_min_size = 2\nosd_pool_default_pg_num = 8\n\
             osd_pool_default_pgp_num = 8\nosd_pool_default_pg_autoscale_mode = off\n\
             osd_crush_chooseleaf_type = 0\nosd_heartbeat_interval = 2\nosd_heartbeat_grace = 6\n\
             mon_osd_min_down_reporters = 1\nbluestore_block_size = 8589934592\nosd_memory_target = 939524096\n",
        );
        Ok(text)
    }

    /// A program of the tree with the cluster's configuration, started by the tree's own loader.
    fn command(&self, program: &str, arguments: &[&str]) -> Result<Vec<String>, String> {
        let (loader, libraries) = debian::loader(&self.tree)?;
        let path = self.tree.join("usr/bin").join(program).display().to_string();
        let libraries = format!("{0}:{0}/ceph", libraries.display());
        let mut command =
            vec![loader.display().to_string(), "--library-path".to_owned(), libraries];
        command.extend(["--argv0".to_owned(), path.clone(), path]);
        command.extend(arguments.iter().map(|&word| word.to_owned()));
        Ok(command)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let conf = self.file("ceph.conf");
        let command = self.command(program, &[&["-c", &conf], arguments].concat())?;
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        process::output(&command, None)
    }

    /// The `ceph` command, which is a Python script.
    fn ceph(&self, arguments: &[&str]) -> Result<String, String> {
        let (usr, conf) = (self.tree.join("usr"), self.file("ceph.conf"));
        let script = usr.join("bin/ceph").display().to_string();
        let home = format!("PYTHONHOME={}", usr.display());
        let path = format!("PYTHONPATH={}", usr.join("lib/python3/dist-packages").display());
        let python = self.command("python3.11", &[&[&script, "-c", &conf], arguments].concat())?;
        let python: Vec<&str> = python.iter().map(String::as_str).collect();
        process::output(&[&["env", &home, &path], &python[..]].concat(), None)
    }

    fn daemon(&self, program: &str, arguments: &[&str]) -> Result<Daemon, String> {
        let conf = self.file("ceph.conf");
        let command = self.command(program, &[&["-c", &conf], arguments].concat())?;
        let name = format!("{program}-{}", arguments.get(1).unwrap_or(&""));
        Daemon::start(&name, &command, None, &self.folder.join(format!("{name}.out")))
    }

    fn start_monitor(&mut self, id: &str, port: u16) -> Result<(), String> {
        let (map, place) = (self.file("monmap"), format!("[v2:127.0.0.1:{port}]"));
        self.run("monmaptool", &["--create", "--fsid", id, "--addv", "a", &place, &map])?;
        self.run("ceph-mon", &["--mkfs", "-i", "a", "--monmap", &map])?;
        let monitor = self.daemon("ceph-mon", &["-i", "a", "-f"])?;
        self.others.push(monitor);
        self.wait("the monitor", |ceph| {
            ceph.ceph(&["--connect-timeout", "10", "osd", "stat"]).is_ok()
        })
    }

    fn start_osds(&mut self) -> Result<(), String> {
        for number in 0..OSDS {
            let (id, number) = (uuid()?, number.to_string());
            fs::create_dir(self.file(&format!("osd.{number}")))
                .map_err(|error| error.to_string())?;
            self.ceph(&["osd", "new", &id])?;
            self.run("ceph-osd", &["-i", &number, "--mkfs", "--osd-uuid", &id])?;
            let osd = self.daemon("ceph-osd", &["-i", &number, "-f"])?;
            self.osds.push(osd);
        }
        self.wait("three OSDs", |ceph| {
            let said = ceph.ceph(&["osd", "stat", "-f", "json"]).unwrap_or_default();
            let stat: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
            stat["num_up_osds"] == OSDS
        })
    }

    /// Its port is chosen right before: a minute later some client may have it.
    fn start_gateway(&mut self) -> Result<(), String> {
        let port = free_port()?;
        self.endpoint = format!("http://127.0.0.1:{port}");
        let frontend = format!("--rgw_frontends=beast endpoint=127.0.0.1:{port}");
        let gateway = self.daemon("radosgw", &["-n", "client.rgw", "-f", &frontend])?;
        self.others.push(gateway);
        Ok(())
    }

    fn make_bucket(&self) -> Result<(), String> {
        let key = format!("--access-key={KEY}");
        let secret = format!("--secret-key={KEY}");
        let user = ["user", "create", "--uid=howdah", "--display-name=howdah", &key, &secret];
        self.run("radosgw-admin", &user)?;
        let user = format!("{KEY}:{KEY}");
        let place = format!("{}/{BUCKET}", self.endpoint);
        let ask = ["curl", "--silent", "--fail", "--request", "PUT", "--user", &user];
        // Part of what is signed, which curl leaves out: the hash of no bytes.
        let hash = format!("x-amz-content-sha256: {NOTHING_SHA256}");
        let sign = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--header", &hash, &place];
        let ask = [&ask[..], &sign].concat();
        self.wait("the gateway", |_ceph| process::output(&ask, None).is_ok())
    }

    fn wait(&self, what: &str, is_there: impl Fn(&Ceph) -> bool) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        while !is_there(self) {
            if Instant::now() > until {
                let folder = self.folder.display();
                return Err(format!("Ceph: {what} does not come up; see {folder}/*.log"));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        // The gateway first: it would wait for the others.
        for daemon in self.others.iter_mut().rev().chain(&mut self.osds) {
            daemon.stop("-KILL");
        }
    }
}

/// The folder with Ceph's programs, fetched if they are not there.
fn obtain() -> Result<PathBuf, String> {
    let folder = servers::folder("ceph")?;
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let lock = File::create(folder.join("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let tree = folder.join("tree");
    if tree.join("usr/bin/radosgw").exists() {
        return Ok(tree);
    }
    println!("fetching Ceph from Debian {SUITE}");
    let (state, new) = (folder.join("apt"), folder.join("new"));
    let _old = fs::remove_dir_all(&state);
    let _old = fs::remove_dir_all(&new);
    let apt = Apt::update(&state, SUITE)?;
    apt.unpack(&apt.closure(&PACKAGES)?, &new)?;
    fs::rename(&new, &tree).map_err(|error| error.to_string())?;
    fs::remove_dir_all(&state).map_err(|error| error.to_string())?;
    Ok(tree)
}

fn uuid() -> Result<String, String> {
    let read = fs::read_to_string("/proc/sys/kernel/random/uuid");
    read.map(|text| text.trim().to_owned()).map_err(|error| error.to_string())
}
