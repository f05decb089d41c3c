//! Masks, comparison and checksum of any page: masking is the same whether done once or twice.

use pg::datadir::relation::Fork;
use pg::page::checksum::checksum;
use pg::page::diff::diff;
use pg::page::mask::{MaskOptions, PageKind, compare, mask};
use pg::page::{PAGE_BYTES, PageBytes, vm};
use pg::wal::rmgr::Rmgr;

use super::seeds::{Script, records};

/// Takes one input.
pub fn run(input: &[u8]) {
    let mut script = Script(input);
    let seeds = records();
    let seed = &seeds[script.u16() % seeds.len()];
    let (rmgr, block) = (Rmgr(script.u8() % 32), u32::from(script.u8()));
    let Some(page) = seed.pages.first() else { return };
    let mut bytes = page.to_vec();
    script.damage(&mut bytes);
    bytes.resize(PAGE_BYTES, 0);
    let page: PageBytes = bytes.try_into().unwrap();
    for kind in [PageKind::of_rmgr(rmgr), PageKind::of_page(&page, Fork::Main)] {
        for options in [MaskOptions::POSTGRES, MaskOptions::FILES] {
            let mut masked = page;
            mask(&mut masked, kind, block, options);
            assert_eq!(compare(Some(&page), &page, kind, block, options), None);
            let again = &mut masked.clone();
            mask(again, kind, block, options);
        }
    }
    let _ = checksum(&page, block);
    assert_eq!(diff(&page, &page), None);
    let mut map = page;
    vm::clear(&mut map, block, 3);
    vm::clear_from(&mut map, block);
}
