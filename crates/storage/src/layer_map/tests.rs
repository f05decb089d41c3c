//! Tests of the layer map: against looking at every layer.

use std::ops::Range;

use runtime::random::Rng;

use super::*;
use crate::key::Chunk;
use crate::layer::Place;

fn key(number: u64) -> Key {
    let chunk = Chunk(u128::from(number / 8).to_be_bytes());
    Key { chunk, block: u32::try_from(number % 8).expect("below eight") }
}

fn within(rng: &mut Rng, range: Range<u64>) -> u64 {
    range.start + rng.below(range.end - range.start)
}

fn layer(number: u64, rng: &mut Rng, keys: u64, versions: u64) -> LayerInfo {
    let first = rng.below(keys);
    let last = if rng.below(8) == 0 { keys - 1 } else { first + rng.below((keys - first).min(6)) };
    let kind = [Kind::Level0, Kind::Delta, Kind::Image][usize::try_from(rng.below(3)).expect("3")];
    let oldest = within(rng, 1..versions);
    let newest = if kind == Kind::Image { oldest } else { within(rng, oldest..versions + 1) };
    LayerInfo {
        number,
        kind,
        place: Place::LOCAL,
        first: key(first),
        last: key(last),
        oldest: Version(oldest),
        newest: Version(newest),
        bytes: 1,
        raw_bytes: 1,
        entries: 1,
    }
}

/// What a search has to answer, found the slow way; only one of several images of the same version, which tell the same.
fn expected(layers: &[LayerInfo], key: Key, at: Version, after: Option<Version>) -> Vec<LayerInfo> {
    let mut all: Vec<LayerInfo> = layers
        .iter()
        .filter(|layer| layer.covers(key) && layer.oldest <= at)
        .filter(|layer| after.is_none_or(|after| layer.newest > after))
        .copied()
        .collect();
    let image = all.iter().filter(|l| l.kind == Kind::Image).map(|l| l.newest).max();
    if let Some(image) = image {
        all.retain(|l| l.newest > image || (l.newest == image && l.kind == Kind::Image));
    }
    all.sort_by_key(|l| (std::cmp::Reverse(l.newest), l.kind == Kind::Image, l.number));
    let first_image = all.iter().position(|l| l.kind == Kind::Image);
    all.truncate(first_image.map_or(all.len(), |at| at + 1));
    all
}

/// With the image's number left out: any of those of the same version will do.
fn comparable(layers: &[LayerInfo]) -> Vec<(Version, Option<u64>)> {
    let number = |l: &LayerInfo| (l.newest, (l.kind != Kind::Image).then_some(l.number));
    layers.iter().map(number).collect()
}

#[test]
fn finds_what_looking_at_every_layer_finds() {
    for seed in 0..300 {
        let mut rng = Rng::seeded(seed);
        let (keys, versions) = (1 + rng.below(40), 2 + rng.below(30));
        let mut next = 0;
        let mut make = |rng: &mut Rng, count| -> Vec<LayerInfo> {
            (0..count)
                .map(|_| {
                    next += 1;
                    layer(next, rng, keys, versions)
                })
                .collect()
        };
        let count = rng.below(60);
        let mut layers = make(&mut rng, count);
        let mut map = LayerMap::new(layers.clone());
        for _ in 0..20 {
            let count = rng.below(4);
            for layer in make(&mut rng, count) {
                map.insert(layer);
                layers.push(layer);
            }
            if !layers.is_empty() && rng.below(2) == 0 {
                let removed = usize::try_from(rng.below(layers.len() as u64)).expect("small");
                map.remove(layers.swap_remove(removed).number);
            }
            if rng.below(6) == 0 {
                map = LayerMap::new(map.layers());
            }
            for _ in 0..20 {
                let (at, key) = (Version(rng.below(versions + 2)), key(rng.below(keys + 1)));
                let after = (rng.below(2) == 0).then(|| Version(rng.below(versions)));
                let found = map.search(key, at, after);
                let expected = expected(&layers, key, at, after);
                assert_eq!(comparable(&found), comparable(&expected), "seed {seed}");
                assert!(found.iter().all(|l| layers.contains(l) && l.covers(key)), "seed {seed}");
            }
        }
    }
}

#[test]
fn the_first_and_the_last_key_are_found() {
    let mut rng = Rng::seeded(1);
    let all = LayerInfo { first: Key::FIRST, last: Key::LAST, ..layer(1, &mut rng, 1, 2) };
    let map = LayerMap::new(vec![all]);
    for key in [Key::FIRST, Key::LAST] {
        assert_eq!(map.search(key, Version(u64::MAX), None), [all]);
    }
}
