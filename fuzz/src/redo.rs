//! Real records, damaged, on the pages they were made for, damaged, or on others': an error that tells where, or a page.

use pg::page::mask::{MaskOptions, PageKind, compare};
use pg::page::{PAGE_BYTES, PageBytes};
use pg::redo::visibility::implied_vm_clears;
use pg::redo::{Options, redo};

use super::seeds::{Script, records, with_damaged};

/// Takes one input.
pub fn run(input: &[u8]) {
    let mut script = Script(input);
    let seeds = records();
    let seed = &seeds[script.u16() % seeds.len()];
    let flags = script.u8();
    let stranger = &seeds[script.u16() % seeds.len()];
    let options = Options { hints_logged: flags & 1 != 0 };
    with_damaged(seed, &mut script, |record, script| {
        assert!(implied_vm_clears(record).count() <= 2);
        for (index, block) in record.blocks.iter().enumerate() {
            let pages = if flags & 2 == 0 { &seed.pages } else { &stranger.pages };
            let mut bytes = pages.get(index).or(pages.first()).unwrap().to_vec();
            script.damage(&mut bytes);
            bytes.resize(PAGE_BYTES, 0);
            let mut page: PageBytes = bytes.try_into().unwrap();
            match redo(record, block.id, &mut page, options) {
                Ok(_) => {
                    let kind = PageKind::of_rmgr(record.rmgr());
                    assert_eq!(
                        compare(Some(&page), &page, kind, block.number, MaskOptions::POSTGRES),
                        None
                    );
                }
                Err(error) => {
                    assert!(error.to_string().contains(&record.lsn.to_string()), "{error}")
                }
            }
        }
    });
}
