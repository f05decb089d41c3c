//! The metapage of a hash index (`HashMetaPageData`, `access/hash.h`).

use super::super::{Done, Fault, Step, field};
use super::{META, NOTHING, init_page, removed_tuples};
use crate::page::Page;
use crate::page::header::HEADER_BYTES;
use crate::wal::cursor::Cursor;

const MAGIC: u32 = 0x0644_0640;
const VERSION: u32 = 4;

// Places behind the page header.
const TUPLES: usize = HEADER_BYTES + 8;
const FILL_FACTOR: usize = HEADER_BYTES + 16;
const MAX_BUCKET: usize = HEADER_BYTES + 24;
const HIGH_MASK: usize = HEADER_BYTES + 28;
const LOW_MASK: usize = HEADER_BYTES + 32;
const OVERFLOW_POINT: usize = HEADER_BYTES + 36;
const FIRST_FREE: usize = HEADER_BYTES + 40;
const MAPS: usize = HEADER_BYTES + 44;
const PROCEDURE: usize = HEADER_BYTES + 48;
const SPARES: usize = HEADER_BYTES + 52;
const MAP_BLOCKS: usize = SPARES + SPLIT_POINTS_MAX * 4;
const END: usize = HEADER_BYTES + 4544;

const SPLIT_POINTS_MAX: usize = 98;
const MAPS_MAX: usize = 1024;
/// Groups of buckets up to here are allocated at once, later ones in four phases.
const GROUPS_WITH_ONE_PHASE: u32 = 10;

/// Bytes of a page that a bitmap could use, of these the largest power of two, and its bits as a shift.
const BITMAP_SIZES: (u16, u16, u16) = (8152, 4096, 15);

const UPDATE_MASKS: u8 = 1 << 0;
const UPDATE_SPLIT_POINT: u8 = 1 << 1;

/// A new index for an expected number of tuples (`_hash_init_metabuffer`).
pub(super) fn init(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let tuples = f64::from_bits(field(cursor.u64())?);
    let procedure = field(cursor.u32())?;
    let fill_factor = field(cursor.u16())?;
    let buckets = bucket_count(tuples / f64::from(fill_factor));
    let split_point = spare_index(buckets);
    let high_mask = (buckets + 1).next_power_of_two() - 1;
    let page = &mut step.page;
    init_page(page, NOTHING, NOTHING, META);
    for (at, value) in [
        (HEADER_BYTES, MAGIC),
        (HEADER_BYTES + 4, VERSION),
        (MAX_BUCKET, buckets - 1),
        (HIGH_MASK, high_mask),
        (LOW_MASK, high_mask >> 1),
        (OVERFLOW_POINT, split_point),
        (PROCEDURE, procedure),
    ] {
        page.put_u32(at, value);
    }
    let (size, bitmap, shift) = BITMAP_SIZES;
    for (index, value) in [fill_factor, size, bitmap, shift].into_iter().enumerate() {
        page.put_u16(FILL_FACTOR + index * 2, value);
    }
    set_spare(page, split_point, 1)?;
    page.set_lower(END);
    Ok(Done::Changed)
}

/// What each kind of record changes on the metapage.
pub(super) fn change(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut data = Cursor::new(step.block.data);
    match step.kind() {
        0x10 => {
            let buckets = step.page.u32(MAX_BUCKET).wrapping_add(1);
            add_map(&mut step.page, buckets.wrapping_add(1))?;
        }
        0x20 => set_tuples(&mut step.page, |tuples| tuples + 1.0),
        0x30 => add_overflow(step, field(data.u32())?)?,
        0x40 => split_allocate(step, &mut data)?,
        0x80 => step.page.put_u32(FIRST_FREE, field(data.u32())?),
        0xB0 => {
            let tuples = f64::from_bits(field(step.main_data().u64())?);
            set_tuples(&mut step.page, |_old| tuples);
        }
        _ => {
            let removed = f64::from(field(removed_tuples(step))?.0);
            set_tuples(&mut step.page, |tuples| tuples - removed);
        }
    }
    Ok(Done::Changed)
}

fn add_overflow(step: &mut Step<'_, '_, '_>, first_free: u32) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let _bitmap_bytes = field(cursor.u16())?;
    let found_free_page = field(cursor.bool())?;
    let page = &mut step.page;
    page.put_u32(FIRST_FREE, first_free);
    if found_free_page {
        return Ok(());
    }
    let point = page.u32(OVERFLOW_POINT);
    let spares = spare(page, point)?;
    match step.record.block(3) {
        None => set_spare(page, point, spares.wrapping_add(1)),
        Some(new_map) => {
            add_map(page, new_map.number)?;
            set_spare(page, point, spares.wrapping_add(2))
        }
    }
}

fn split_allocate(step: &mut Step<'_, '_, '_>, data: &mut Cursor<'_>) -> Result<(), Fault> {
    let mut cursor = step.main_data();
    let new_bucket = field(cursor.u32())?;
    let _bucket_flags = field(cursor.u32())?;
    let flags = field(cursor.u8())?;
    let page = &mut step.page;
    page.put_u32(MAX_BUCKET, new_bucket);
    if flags & UPDATE_MASKS != 0 {
        page.put_u32(LOW_MASK, field(data.u32())?);
        page.put_u32(HIGH_MASK, field(data.u32())?);
    }
    if flags & UPDATE_SPLIT_POINT != 0 {
        let point = field(data.u32())?;
        set_spare(page, point, field(data.u32())?)?;
        page.put_u32(OVERFLOW_POINT, point);
    }
    Ok(())
}

fn set_tuples(page: &mut Page<'_>, new: impl Fn(f64) -> f64) {
    let old = u64::from(page.u32(TUPLES)) | u64::from(page.u32(TUPLES + 4)) << 32;
    let bits = new(f64::from_bits(old)).to_bits();
    page.put_u32(TUPLES, (bits & 0xFFFF_FFFF) as u32);
    page.put_u32(TUPLES + 4, (bits >> 32) as u32);
}

fn add_map(page: &mut Page<'_>, block: u32) -> Result<(), Fault> {
    let maps = page.u32(MAPS);
    if maps as usize >= MAPS_MAX {
        return Err(Fault::Page("too many bitmap pages"));
    }
    page.put_u32(MAP_BLOCKS + maps as usize * 4, block);
    page.put_u32(MAPS, maps + 1);
    Ok(())
}

fn spare_place(point: u32) -> Result<usize, Fault> {
    if point as usize >= SPLIT_POINTS_MAX {
        return Err(Fault::Page("split point too large"));
    }
    Ok(SPARES + point as usize * 4)
}

fn spare(page: &Page<'_>, point: u32) -> Result<u32, Fault> {
    spare_place(point).map(|at| page.u32(at))
}

fn set_spare(page: &mut Page<'_>, point: u32, pages: u32) -> Result<(), Fault> {
    page.put_u32(spare_place(point)?, pages);
    Ok(())
}

/// Buckets that an index begins with: at least two, then whole phases.
fn bucket_count(wanted: f64) -> u32 {
    const MOST: f64 = 1_073_741_824.0;
    if wanted <= 2.0 {
        return 2;
    }
    if wanted >= MOST {
        return 0x4000_0000;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 2 and 2^30, and Postgres cuts the fraction off, too"
    )]
    let wanted = wanted as u32;
    total_buckets(spare_index(wanted))
}

/// The split point that a number of buckets belongs to (`_hash_spareindex`).
fn spare_index(buckets: u32) -> u32 {
    let group = buckets.max(1).next_power_of_two().ilog2();
    if group < GROUPS_WITH_ONE_PHASE {
        return group;
    }
    let phase = (buckets.saturating_sub(1) >> (group - 3)) & 3;
    GROUPS_WITH_ONE_PHASE + (group - GROUPS_WITH_ONE_PHASE) * 4 + phase
}

/// Buckets up to and with a split point (`_hash_get_totalbuckets`).
fn total_buckets(point: u32) -> u32 {
    let Some(beyond) = point.checked_sub(GROUPS_WITH_ONE_PHASE) else { return 1 << point };
    let half = 1_u32 << (GROUPS_WITH_ONE_PHASE + beyond / 4 - 1);
    half + half / 4 * (beyond % 4 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_grow_in_groups_and_phases() {
        for (wanted, buckets) in
            [(0.5, 2), (3.9, 4), (5.0, 8), (512.0, 512), (513.0, 640), (641.0, 768), (1025.0, 1280)]
        {
            assert_eq!(bucket_count(wanted), buckets, "{wanted}");
        }
    }
}
