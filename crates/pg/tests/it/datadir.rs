//! Files of a real data directory read as Postgres' own tools read them.

mod postgres {
    use pg::datadir::backup_label::BackupLabel;
    use pg::datadir::control::{ControlError, ControlFile, State};
    use pg::datadir::layout::version_directory;
    use pg::datadir::relmap::RelationMap;
    use pg::oid::Oid;
    use pg::page::checksum::checksum;
    use pg::page::header::is_new;
    use pg::page::{PAGE_BYTES, Page};

    use crate::cluster::{Cluster, programs};

    const INITDB: &[&str] = &["--data-checksums", "--wal-segsize", "4"];

    #[test]
    fn files_of_a_data_directory_say_what_the_server_says() {
        compare_with_server(Cluster::create(INITDB), "PG_15_202209061");
    }

    #[test]
    fn files_of_postgres_16_to_18_say_what_the_server_says() {
        for (major, directory) in
            [(16, "PG_16_202307071"), (17, "PG_17_202406281"), (18, "PG_18_202506291")]
        {
            let Some(binaries) = programs(major) else { continue };
            compare_with_server(Cluster::create_with(binaries, INITDB), directory);
        }
    }

    fn compare_with_server(mut cluster: Cluster, directory: &str) {
        let files = cluster.files();
        let file = |name: &str| &files.iter().find(|file| file.0 == name).unwrap().1[..];

        let control = ControlFile::parse(file("global/pg_control")).unwrap();
        assert_eq!((control.state, control.segment_bytes), (State::ShutDown, 4 << 20));
        assert_eq!((control.checksum_version, control.checkpoint.timeline), (1, 1));
        assert_eq!(control.parameters.max_connections, 100);
        let data = cluster.data();
        let told = cluster.run("pg_controldata", &["-D", data.to_str().unwrap()]);
        for (name, value) in [
            ("Database system identifier", control.system_identifier.to_string()),
            ("Catalog version number", control.catalog_version.to_string()),
            ("Latest checkpoint location", control.checkpoint_lsn.to_string()),
            ("Latest checkpoint's REDO location", control.checkpoint.redo.to_string()),
            ("Latest checkpoint's NextXID", format!("0:{}", control.checkpoint.next_xid)),
            ("Latest checkpoint's NextOID", control.checkpoint.next_oid.to_string()),
            ("Latest checkpoint's oldestXID", control.checkpoint.oldest_xid.to_string()),
            (
                "max_locks_per_xact setting",
                control.parameters.max_locks_per_transaction.to_string(),
            ),
        ] {
            let line = told.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
            assert!(line.ends_with(&format!(" {value}")), "{line} against {value}");
        }
        let mut broken = file("global/pg_control").to_vec();
        broken[40] ^= 1;
        assert_eq!(ControlFile::parse(&broken), Err(ControlError::Checksum));
        assert_eq!(ControlFile::parse(&broken[..100]), Err(ControlError::TooShort));

        let map = RelationMap::parse(file("base/5/pg_filenode.map")).unwrap();
        let pg_class = map.file_of(Oid(1259)).unwrap();
        let mut pages = 0;
        let (blocks, _none) = file(&format!("base/5/{pg_class}")).as_chunks::<PAGE_BYTES>();
        for (number, block) in (0..).zip(blocks) {
            let mut copy = *block;
            let told = Page::new(&mut copy).checksum();
            assert!(is_new(block) || told == checksum(block, number), "block {number}");
            pages += 1;
        }
        assert!(pages > 10);

        cluster.serve(&[]);
        assert_eq!(
            cluster.sql("SELECT pg_relation_filenode('pg_class')").trim(),
            pg_class.to_string()
        );
        let place = cluster.sql("SELECT pg_relation_filepath('pg_class')");
        assert_eq!(place.trim(), format!("base/5/{pg_class}"));
        cluster.sql("SELECT pg_backup_start('a label', true)");
        let both =
            "SELECT pg_backup_start('a label', true); SELECT labelfile FROM pg_backup_stop(false)";
        let answer = cluster.sql(both);
        let (start, label) = answer.split_once('\n').unwrap();
        let label = BackupLabel::parse(label).unwrap();
        assert_eq!(label.start.to_string(), start);
        assert_eq!(
            (label.label.as_str(), label.timeline, label.from_standby),
            ("a label", 1, false)
        );
        let major = cluster.version().major();
        assert_eq!(version_directory(major, control.catalog_version), directory);
    }
}
