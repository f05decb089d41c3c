//! Redo of `Btree` records (`access/nbtree/nbtxlog.c`, `access/nbtxlog.h`).

mod delete;
mod posting;
mod split;
mod tuple;

use super::{Done, Fault, Step, field};
use crate::page::Page;
use crate::page::header::{HEADER_BYTES, align};
use crate::page::item::Placing;
use crate::wal::cursor::{Cursor, u16_at, u32_at};

const LEAF: u16 = 1 << 0;
const ROOT: u16 = 1 << 1;
const DELETED: u16 = 1 << 2;
const META: u16 = 1 << 3;
const HALF_DEAD: u16 = 1 << 4;
const HAS_GARBAGE: u16 = 1 << 6;
const INCOMPLETE_SPLIT: u16 = 1 << 7;
const HAS_FULL_XID: u16 = 1 << 8;

/// Bytes of what every page has at its end (`BTPageOpaqueData`).
const OPAQUE_BYTES: usize = 16;
/// The high key's line pointer, on every page that has a right sibling.
const HIGH_KEY: u16 = 1;

const META_MAGIC: u32 = 0x0005_3162;
/// Bytes of the metapage's structure (`BTMetaPageData`).
const META_BYTES: usize = 48;

pub(super) fn redo(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let id = step.block.id;
    match (step.kind(), id) {
        (0x00, 0) | (0x10 | 0x20, 0) => insert(step.existing_page()?),
        (0x50, 0) => insert_posting(step.existing_page()?),
        (0x10 | 0x20, 1) | (0x30 | 0x40, 3) | (0xA0, 1) => split_finished(step.existing_page()?),
        (0x20 | 0xA0, 2) | (0x90, 4) | (0xE0, 0) => meta(step),
        (0x30 | 0x40, 0) => split::left(step.existing_page()?),
        (0x30 | 0x40, 1) => split::right(step),
        (0x30 | 0x40, 2) => {
            let right = field(step.record.block(1))?.number;
            set_link(step.existing_page()?, PREVIOUS, right)
        }
        (0x60, 0) => posting::deduplicate(step.existing_page()?),
        (0x70, 0) => delete::items(step.existing_page()?, 4),
        (0xC0, 0) => delete::items(step.existing_page()?, 0),
        (0xB0, 0) => delete::half_dead_leaf(step),
        (0xB0, 1) => delete::parent_of_half_dead(step.existing_page()?),
        (0x80 | 0x90, 0..=3) => delete::unlink(step),
        (0xA0, 0) => new_root(step),
        _ => Err(Fault::Record("unexpected block reference")),
    }
}

fn insert(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let number = field(step.main_data().u16())?;
    step.page.add_item(step.block.data, number, Placing::Shift)?;
    Ok(Done::Changed)
}

/// The new item falls within a posting list: the list takes it in and gives up its last one instead.
fn insert_posting(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let number = field(step.main_data().u16())?;
    let mut data = Cursor::new(step.block.data);
    let at = field(data.u16())?;
    let mut new = data.rest().to_vec();
    let list = step.page.item_mut(number.saturating_sub(1))?;
    let swapped = posting::swap(&mut new, list, at)?;
    list.copy_from_slice(&swapped);
    step.page.add_item(&new, number, Placing::Shift)?;
    Ok(Done::Changed)
}

/// The child's right sibling now has its downlink.
fn split_finished(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut opaque = opaque(&step.page)?;
    opaque.flags &= !INCOMPLETE_SPLIT;
    opaque.write(&mut step.page);
    Ok(Done::Changed)
}

/// Writes the metapage anew from `xl_btree_metadata`.
fn meta(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut data = Cursor::new(step.block.data);
    let version_to_deleted_pages = field(data.array::<24>())?;
    let all_equal_image = field(data.u8())?;
    step.page.init(OPAQUE_BYTES);
    let mut bytes = Vec::with_capacity(META_BYTES);
    bytes.extend_from_slice(&META_MAGIC.to_le_bytes());
    bytes.extend_from_slice(&version_to_deleted_pages);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(-1.0_f64).to_le_bytes());
    bytes.push(all_equal_image);
    step.page.write(HEADER_BYTES, &bytes)?;
    step.page.set_lower(HEADER_BYTES + META_BYTES);
    Opaque { flags: META, ..Opaque::default() }.write(&mut step.page);
    Ok(Done::Changed)
}

fn new_root(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let mut cursor = step.main_data();
    let _root_block = field(cursor.u32())?;
    let level = field(cursor.u32())?;
    step.page.init(OPAQUE_BYTES);
    let flags = if level == 0 { ROOT | LEAF } else { ROOT };
    Opaque { level, flags, ..Opaque::default() }.write(&mut step.page);
    if level > 0 {
        restore_items(&mut step.page, step.block.data)?;
    }
    Ok(Done::Changed)
}

/// Adds tuples that are logged as they stood on a page: the last one first.
fn restore_items(page: &mut Page<'_>, data: &[u8]) -> Result<(), Fault> {
    let mut items = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let length = align(field(tuple::size(rest))?);
        let (item, later) = field(rest.split_at_checked(length).filter(|_| length > 0))?;
        items.push(item);
        rest = later;
    }
    for item in items.into_iter().rev() {
        page.append_item(item)?;
    }
    Ok(())
}

/// `BTPageOpaqueData`.
#[derive(Clone, Copy, Default)]
struct Opaque {
    previous: u32,
    next: u32,
    level: u32,
    flags: u16,
    cycle: u16,
}

impl Opaque {
    fn write(&self, page: &mut Page<'_>) {
        let Some(bytes) = page.special_bytes_mut().first_chunk_mut::<OPAQUE_BYTES>() else {
            return;
        };
        let [a, b, c, d] = self.previous.to_le_bytes();
        let [e, f, g, h] = self.next.to_le_bytes();
        let [i, j, k, l] = self.level.to_le_bytes();
        let ([m, n], [o, p]) = (self.flags.to_le_bytes(), self.cycle.to_le_bytes());
        *bytes = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
    }

    const fn is_rightmost(&self) -> bool {
        self.next == 0
    }

    /// The first line pointer behind the high key.
    const fn first_data_key(&self) -> u16 {
        if self.is_rightmost() { HIGH_KEY } else { HIGH_KEY + 1 }
    }
}

fn opaque(page: &Page<'_>) -> Result<Opaque, Fault> {
    let bytes = page.special_bytes();
    if bytes.len() != OPAQUE_BYTES {
        return Err(Fault::Page("not a btree page"));
    }
    let (u32_of, u16_of) = (|at| field(u32_at(bytes, at)), |at| field(u16_at(bytes, at)));
    Ok(Opaque {
        previous: u32_of(0)?,
        next: u32_of(4)?,
        level: u32_of(8)?,
        flags: u16_of(12)?,
        cycle: u16_of(14)?,
    })
}

/// Which sibling link to set.
type Link = fn(&mut Opaque) -> &mut u32;
const PREVIOUS: Link = |opaque| &mut opaque.previous;
const NEXT: Link = |opaque| &mut opaque.next;

fn set_link(step: &mut Step<'_, '_, '_>, link: Link, block: u32) -> Result<Done, Fault> {
    let mut opaque = opaque(&step.page)?;
    *link(&mut opaque) = block;
    opaque.write(&mut step.page);
    Ok(Done::Changed)
}
