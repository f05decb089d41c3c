//! Layer files: what was written is read; what is damaged is refused.

use std::path::Path;

use runtime::executor::block_on;
use runtime::fs::{self, File};
use runtime::io::simulated::Simulation;
use runtime::io::{Backend, Options};
use runtime::random::Rng;
use storage::entry::OwnedEntry;
use storage::key::{Chunk, Key};
use storage::layer::reader::Layer;
use storage::layer::writer::LayerWriter;
use storage::layer::{self, LayerInfo};
use storage::limits::COMPRESSION_LEVEL;
use storage::version::Version;

fn simulated<F: Future<Output = ()>>(seed: u64, scenario: F) {
    let simulation = Simulation { seed, ..Simulation::default() };
    let options = Options { simulation, ..Options::on(Backend::Simulated) };
    block_on(&options, scenario).expect("the world goes on");
}

/// Entries in order: few keys with many versions, many with few.
fn entries(rng: &mut Rng, count: u64, payload_max: u64) -> Vec<OwnedEntry> {
    let mut all = std::collections::BTreeMap::new();
    for _ in 0..count {
        let chunk = Chunk([u8::try_from(rng.below(3)).expect("below three"); 16]);
        let block = u32::try_from(rng.below(20)).expect("below twenty");
        let (key, version) = (Key { chunk, block }, Version(1 + rng.below(5000)));
        let length = usize::try_from(rng.below(payload_max + 1)).expect("short");
        let mut payload = vec![0; length];
        payload.iter_mut().step_by(3).for_each(|byte| *byte = rng.next_u64().to_le_bytes()[0]);
        let whole = rng.below(4) == 0;
        all.insert((key, version), OwnedEntry { key, version, whole, payload });
    }
    all.into_values().collect()
}

async fn write(number: u64, entries: &[OwnedEntry]) -> LayerInfo {
    let directory = Path::new("");
    let mut writer =
        LayerWriter::create(directory, number, COMPRESSION_LEVEL).await.expect("created");
    for entry in entries {
        writer.add(entry.borrow()).await.expect("added");
    }
    writer.finish().await.expect("finished").expect("there are entries")
}

async fn read(info: &LayerInfo) -> std::io::Result<Vec<OwnedEntry>> {
    let layer = Layer::open(Path::new(""), info).await?;
    let mut all = Vec::new();
    for number in 0..layer.blocks() {
        let block = layer.block(number).await?;
        all.extend((0..block.len()).filter_map(|at| block.get(at)).map(|entry| entry.to_owned()));
    }
    Ok(all)
}

#[test]
fn reads_what_was_written() {
    for seed in 0..20 {
        simulated(seed, async move {
            let mut rng = Rng::seeded(seed);
            let (count, payload_max) =
                (1 + rng.below(3000), [0, 10, 200, 9000][(seed % 4) as usize]);
            let entries = entries(&mut rng, count, payload_max);
            let info = write(seed, &entries).await;
            assert_eq!(info.entries, entries.len() as u64);
            assert_eq!((info.first, info.last), (entries[0].key, entries[entries.len() - 1].key));
            assert_eq!(Some(info.newest), entries.iter().map(|entry| entry.version).max());
            assert!(read(&info).await.expect("readable") == entries, "seed {seed}");
        });
    }
}

#[test]
fn any_byte_changed_or_cut_is_an_error() {
    simulated(1, async {
        let info = write(1, &entries(&mut Rng::seeded(1), 60, 30)).await;
        let path = layer::path(Path::new(""), 1);
        let bytes = fs::read(&path).await.expect("readable");
        assert_eq!(bytes.len() as u64, info.bytes);
        for place in 0..bytes.len() {
            for changed in [bytes[place] ^ 1, bytes[place] ^ 0x80, !bytes[place]] {
                let file = File::create(&path).await.expect("created");
                let mut damaged = bytes.clone();
                damaged[place] = changed;
                file.write_all_at(damaged, 0).await.0.expect("written");
                let error = read(&info).await.expect_err("damaged");
                assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "byte {place}: {error}");
                assert!(error.to_string().contains("0000000000000001.layer"), "{error}");
            }
            let file = File::create(&path).await.expect("created");
            file.write_all_at(bytes[..place].to_vec(), 0).await.0.expect("written");
            read(&info).await.expect_err("cut");
        }
    });
}

#[test]
fn another_layer_in_its_place_is_an_error() {
    simulated(1, async {
        let mut rng = Rng::seeded(1);
        let one = write(1, &entries(&mut rng, 60, 30)).await;
        let other = write(2, &entries(&mut rng, 60, 30)).await;
        let path = |number| layer::path(Path::new(""), number);
        fs::rename(path(2), path(1)).await.expect("renamed");
        let expected = LayerInfo { bytes: other.bytes, ..one };
        let error = read(&expected).await.expect_err("another one");
        assert!(error.to_string().contains("another layer"), "{error}");
    });
}

#[test]
fn entries_out_of_order_are_refused() {
    simulated(1, async {
        let entries = entries(&mut Rng::seeded(1), 10, 3);
        let mut writer =
            LayerWriter::create(Path::new(""), 1, COMPRESSION_LEVEL).await.expect("created");
        writer.add(entries[1].borrow()).await.expect("the first");
        writer.add(entries[1].borrow()).await.expect_err("the same");
        writer.add(entries[0].borrow()).await.expect_err("an earlier one");
    });
}
