//! The page checksum: 32 interleaved FNV-1a-like sums (`storage/checksum_impl.h`).

use crate::page::{PAGE_BYTES, PageBytes};

const SUMS: usize = 32;
const PRIME: u32 = 16_777_619;
const CHECKSUM: std::ops::Range<usize> = 8..10;

/// Where each sum begins: from a random number generator, different for each so that blocks of equal
/// bytes do not cancel out. The numbers are part of the format.
const BASES: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The checksum of the page as block `block` of its fork; never 0. The field itself counts as 0.
pub fn checksum(page: &PageBytes, block: u32) -> u16 {
    let mut copy = *page;
    if let Some(field) = copy.get_mut(CHECKSUM) {
        field.fill(0);
    }
    let mut sums = BASES;
    let (rows, _none) = copy.as_chunks::<{ SUMS * 4 }>();
    for row in rows {
        let (words, _none) = row.as_chunks::<4>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = step(*sum, u32::from_le_bytes(*word));
        }
    }
    for _round in 0..2 {
        for sum in &mut sums {
            *sum = step(*sum, 0);
        }
    }
    let mixed = sums.into_iter().fold(0, |all, sum| all ^ sum) ^ block;
    u16::try_from(mixed % 65_535 + 1).unwrap_or(u16::MAX)
}

const fn step(sum: u32, value: u32) -> u32 {
    let mixed = sum ^ value;
    mixed.wrapping_mul(PRIME) ^ mixed >> 17
}

const _: () = assert!(PAGE_BYTES.is_multiple_of(SUMS * 4));
