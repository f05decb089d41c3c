//! A stock server on synthesised WAL and control file.
#![expect(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test rewrites a small cluster's files; `pg` itself has no I/O"
)]

mod postgres {
    use std::fs;
    use std::os::unix::fs::chown;
    use std::path::Path;

    use pg::datadir::boot::{BootImage, Facts, segment_header};
    use pg::datadir::control::ControlFile;
    use pg::lsn::Lsn;
    use pg::redo::effects::Checkpoint;
    use pg::wal::segment::{SegmentName, WalVersion};

    use crate::cluster::{Cluster, programs};

    const SEGMENT: u32 = 1 << 20;
    const INITDB: &[&str] = &["--wal-segsize", "1"];

    /// Puts the image in place of all WAL of a stopped cluster.
    fn install(cluster: &Cluster, image: &BootImage, control: &ControlFile) {
        let data = cluster.data();
        let owner = fs::metadata(&data).unwrap();
        let write = |path: &Path, bytes: &[u8]| {
            use std::os::unix::fs::MetadataExt;
            fs::write(path, bytes).unwrap();
            chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
        };
        cluster.shell(&format!("rm -f {}/pg_wal/0*", data.display()));
        write(&data.join("global/pg_control"), &image.control);
        let first = SegmentName::of(1, image.wal_start, SEGMENT).start();
        let until = image.end.0.next_multiple_of(u64::from(SEGMENT));
        let mut wal = segment_header(control.version, control.system_identifier, 1, SEGMENT, first);
        wal.resize((until - first.0) as usize, 0);
        let at = (image.wal_start.0 - first.0) as usize;
        wal[at..at + image.wal.len()].copy_from_slice(&image.wal);
        for (number, segment) in (0..).zip(wal.chunks(SEGMENT as usize)) {
            let start = first + number * u64::from(SEGMENT);
            let name = SegmentName::of(1, start, SEGMENT).to_string();
            write(&data.join("pg_wal").join(name), segment);
        }
    }

    fn control(cluster: &Cluster) -> (Vec<u8>, ControlFile) {
        let bytes = fs::read(cluster.data().join("global/pg_control")).unwrap();
        let control = ControlFile::parse(&bytes).unwrap();
        (bytes, control)
    }

    /// What `pg_controldata` says, without the lines that must differ.
    fn told(cluster: &Cluster) -> String {
        let data = cluster.data();
        let all = cluster.run("pg_controldata", &["-D", data.to_str().unwrap()]);
        let differs = |line: &&str| {
            ["pg_control last modified", "Latest checkpoint location", "Latest checkpoint's REDO"]
                .iter()
                .chain(&["Time of latest checkpoint"])
                .any(|name| line.starts_with(name))
        };
        all.lines().filter(|line| !differs(line)).collect::<Vec<_>>().join("\n")
    }

    /// A clean shutdown's own record is the pattern: written at the same place from the same facts, every byte is
    /// the server's.
    #[test]
    fn the_image_of_a_clean_shutdown_is_the_servers_own() {
        compare_with_the_servers_own(Cluster::create(INITDB));
    }

    #[test]
    fn the_image_of_a_clean_shutdown_is_that_of_servers_16_to_18() {
        for major in [16, 17, 18] {
            let Some(binaries) = programs(major) else { continue };
            compare_with_the_servers_own(Cluster::create_with(binaries, INITDB));
        }
    }

    fn compare_with_the_servers_own(mut cluster: Cluster) {
        cluster.serve(&[]);
        cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
        cluster.stop();
        let (bytes, control) = control(&cluster);
        let (start, wal) = cluster.wal();
        let at = (control.checkpoint_lsn.0 - start) as usize;
        let previous = u64::from_le_bytes(wal[at + 8..at + 16].try_into().unwrap());
        let image = BootImage::new(&Facts {
            control: &bytes,
            end: control.checkpoint_lsn,
            last_record: Lsn(previous),
            timeline: 1,
            counters: control.checkpoint,
            parameters: control.parameters,
            time: control.checkpoint.time,
            wal: &wal[at - at % 8192..at],
        });
        let image = image.unwrap();
        assert_eq!(image.checkpoint, control.checkpoint_lsn);
        let from = (image.wal_start.0 - start) as usize;
        assert_eq!(image.wal, wal[from..from + image.wal.len()]);
        let mut theirs = bytes;
        theirs[24..32].copy_from_slice(&image.control[24..32]); // when it was written
        let crc = if control.version < WalVersion::V18 { 288..292 } else { 292..296 };
        theirs[crc.clone()].copy_from_slice(&image.control[crc.clone()]);
        assert_eq!(image.control[..crc.end], theirs[..crc.end]);
    }

    /// Boots at `end`, somewhere behind everything the cluster wrote.
    fn boots_at(cluster: &mut Cluster, pick: impl Fn(u64) -> u64) {
        cluster.stop();
        let (bytes, control) = control(cluster);
        let before = told(cluster);
        let end = Lsn(pick(control.checkpoint_lsn.0 + 120));
        let counters = Checkpoint { shutdown: true, ..control.checkpoint };
        let image = BootImage::new(&Facts {
            control: &bytes,
            end,
            last_record: control.checkpoint_lsn,
            timeline: 1,
            counters,
            parameters: control.parameters,
            time: 1_800_000_000,
            wal: &[],
        });
        let image = image.unwrap();
        install(cluster, &image, &control);
        assert_eq!(told(cluster).replace("REDO WAL file", ""), {
            let file = |lsn| SegmentName::of(1, lsn, SEGMENT).to_string();
            let (old, new) = (file(control.checkpoint_lsn), file(image.checkpoint));
            before.replace(&old, &new).replace("REDO WAL file", "")
        });
        let wal = cluster.data().join("pg_wal");
        let range = [
            "-p",
            wal.to_str().unwrap(),
            "-s",
            &image.checkpoint.to_string(),
            "-e",
            &image.end.to_string(),
        ];
        let dumped = cluster.run("pg_waldump", &range);
        assert_eq!(dumped.lines().count(), 1, "{dumped}");
        assert!(dumped.contains("CHECKPOINT_SHUTDOWN"), "{dumped}");
        cluster.serve(&[]);
        let log = cluster.shell("cat log");
        assert!(log.contains("database system was shut down at"), "{log}");
        assert!(!log.contains("redo"), "{log}");
        let count = cluster.sql("INSERT INTO t VALUES (0); SELECT count(*) > 1000 FROM t");
        assert_eq!(count.trim(), "t");
        cluster.sql("CHECKPOINT");
    }

    #[test]
    fn a_server_starts_wherever_the_checkpoint_stands() {
        boots_everywhere(Cluster::create(&["--wal-segsize", "1", "-k"]));
    }

    #[test]
    fn a_server_of_16_to_18_starts_wherever_the_checkpoint_stands() {
        for major in [16, 17, 18] {
            let Some(binaries) = programs(major) else { continue };
            boots_everywhere(Cluster::create_with(binaries, &["--wal-segsize", "1", "-k"]));
        }
    }

    fn boots_everywhere(mut cluster: Cluster) {
        cluster.serve(&[]);
        cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i");
        let page = |lsn: u64| lsn.next_multiple_of(8192);
        let segment = |lsn: u64| lsn.next_multiple_of(u64::from(SEGMENT));
        boots_at(&mut cluster, |lsn| lsn);
        boots_at(&mut cluster, |lsn| page(lsn) + 4000);
        boots_at(&mut cluster, page);
        boots_at(&mut cluster, |lsn| page(lsn) + 8192 - 4);
        boots_at(&mut cluster, |lsn| page(lsn) + 8192 - 16);
        boots_at(&mut cluster, |lsn| page(lsn) + 8192 - 80);
        boots_at(&mut cluster, segment);
        boots_at(&mut cluster, |lsn| segment(lsn) - 8);
        boots_at(&mut cluster, |lsn| segment(lsn) + 40);
        cluster.stop();
        let data = cluster.data();
        let checked = cluster.run("pg_checksums", &["--check", "-D", data.to_str().unwrap()]);
        assert!(checked.contains("Bad checksums:  0"), "{checked}");
    }
}
