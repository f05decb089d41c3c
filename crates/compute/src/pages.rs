//! Pages of the branch, from the page server: batched, read ahead where a relation is read in order.
//!
//! A page server that does not answer is asked again for as long as the mount lives: Postgres waits as it would for a
//! slow disk. A page that it refuses is an error of that page alone.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use pageserver::client::{Client, ClientError, PageStream};
use pageserver::connection::Login;
use pg::datadir::relation::RelTag;
use pg::lsn::Lsn;
use runtime::clock;

use crate::boot_set::BootSet;
use crate::limits::{
    FETCH_BLOCKS_MAX, PAGE_BYTES, PAGES_AHEAD_MAX, RETRY_PAUSE_MAX, RETRY_PAUSE_MIN, STREAMS_MAX,
};

/// The page server refused: the reason is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// The pages as of one LSN.
pub struct Pages {
    /// How to reach the page server; names the branch.
    login: Login,
    lsn: Lsn,
    streams: RefCell<Streams>,
    ahead: RefCell<Ahead>,
    /// What is read, as long as somebody wants to know.
    recorded: RefCell<Option<BootSet>>,
}

#[derive(Default)]
struct Streams {
    idle: Vec<PageStream>,
    /// Those in use and those that wait to be connected.
    taken: usize,
    waiting: VecDeque<Waker>,
}

/// Pages that were read before they were asked for.
#[derive(Default)]
struct Ahead {
    pages: BTreeMap<(RelTag, u32), Box<[u8]>>,
    /// In the order of arrival: the oldest goes first.
    order: VecDeque<(RelTag, u32)>,
    /// By fork: the block after the last one read, and how many were fetched then.
    runs: BTreeMap<RelTag, Run>,
}

#[derive(Clone, Copy)]
struct Run {
    next: u32,
    window: u32,
}

impl Pages {
    #[must_use]
    pub fn new(login: Login, lsn: Lsn) -> Pages {
        Pages {
            login,
            lsn,
            streams: RefCell::default(),
            ahead: RefCell::default(),
            recorded: RefCell::default(),
        }
    }

    /// Remembers from now on what is read.
    pub fn record(&self) {
        *self.recorded.borrow_mut() = Some(BootSet::default());
    }

    /// What was read since [`Pages::record`]; nothing is remembered from here on.
    #[must_use]
    pub fn take_recorded(&self) -> BootSet {
        self.recorded.take().unwrap_or_default()
    }

    /// Reads pages that will be asked for soon. What cannot be read now is read when it is asked for.
    pub async fn read_ahead(&self, tag: RelTag, blocks: &[u32]) {
        for blocks in blocks.chunks(usize::try_from(FETCH_BLOCKS_MAX).unwrap_or(1)) {
            let Ok(pages) = self.fetch(tag, blocks).await else { return };
            let mut ahead = self.ahead.borrow_mut();
            for (block, page) in blocks.iter().zip(pages.chunks_exact(PAGE_BYTES)) {
                ahead.keep(tag, *block, page);
            }
        }
    }

    /// Blocks `first..first + count` of a fork that has `blocks`, one after another.
    ///
    /// # Errors
    /// When the page server refuses one of them.
    pub async fn read(
        &self,
        tag: RelTag,
        first: u32,
        count: u32,
        blocks: u32,
    ) -> Result<Vec<u8>, Refused> {
        if let Some(recorded) = self.recorded.borrow_mut().as_mut() {
            (first..first + count).for_each(|block| recorded.add(tag, block));
        }
        if let Some(pages) = self.ahead.borrow_mut().take(tag, first, count) {
            return Ok(pages);
        }
        let fetched = self.ahead.borrow_mut().window(tag, first, count, blocks);
        let wanted: Vec<u32> = (first..first + fetched).collect();
        let mut pages = self.fetch(tag, &wanted).await?;
        let asked = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(PAGE_BYTES);
        let rest = pages.split_off(asked.min(pages.len()));
        self.ahead.borrow_mut().keep(tag, first + count, &rest);
        Ok(pages)
    }

    /// Asks until there is an answer.
    async fn fetch(&self, tag: RelTag, blocks: &[u32]) -> Result<Vec<u8>, Refused> {
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let taken = self.take().await;
            match taken.ask(tag, blocks, self.lsn).await {
                Ok(pages) => return Ok(pages),
                Err(ClientError::Refused { sqlstate, message, detail }) => {
                    tracing::error!(%sqlstate, message, detail, "the page server refused a page");
                    return Err(Refused);
                }
                Err(ClientError::Connection(error)) => {
                    if pause == RETRY_PAUSE_MIN {
                        tracing::warn!(%error, "no page server; asking again until there is one");
                    }
                    clock::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
            }
        }
    }

    /// A stream of one's own, once there is one.
    async fn take(&self) -> Taken<'_> {
        poll_fn(|cx| {
            let mut streams = self.streams.borrow_mut();
            if streams.taken == STREAMS_MAX {
                streams.waiting.push_back(cx.waker().clone());
                return Poll::Pending;
            }
            streams.taken += 1;
            let stream = streams.idle.pop();
            drop(streams);
            Poll::Ready(Taken { pages: self, stream })
        })
        .await
    }
}

/// The right to use one stream, connected or not yet.
struct Taken<'p> {
    pages: &'p Pages,
    stream: Option<PageStream>,
}

impl Taken<'_> {
    async fn ask(mut self, tag: RelTag, blocks: &[u32], lsn: Lsn) -> Result<Vec<u8>, ClientError> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => Client::log_in(&self.pages.login).await?.into_stream().await?,
        };
        let answer = stream.pages(tag, blocks, lsn).await;
        // After a refusal the stream goes on; a connection that failed is not used again.
        if !matches!(answer, Err(ClientError::Connection(_))) {
            self.stream = Some(stream);
        }
        answer
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut streams = self.pages.streams.borrow_mut();
        streams.taken -= 1;
        streams.idle.extend(self.stream.take());
        let next = streams.waiting.pop_front();
        drop(streams);
        if let Some(next) = next {
            next.wake();
        }
    }
}

impl Ahead {
    /// All of the asked blocks, if all are at hand. They are not kept: Postgres has them now.
    fn take(&mut self, tag: RelTag, first: u32, count: u32) -> Option<Vec<u8>> {
        let asked = first..first.checked_add(count)?;
        if !asked.clone().all(|block| self.pages.contains_key(&(tag, block))) {
            return None;
        }
        let mut pages = Vec::with_capacity(PAGE_BYTES * usize::try_from(count).ok()?);
        for block in asked {
            if let Some(page) = self.pages.remove(&(tag, block)) {
                pages.extend_from_slice(&page);
            }
        }
        if let Some(run) = self.runs.get_mut(&tag) {
            run.next = first + count;
        }
        Some(pages)
    }

    /// How many blocks to fetch for a read of `count`: more and more while a fork is read in order.
    fn window(&mut self, tag: RelTag, first: u32, count: u32, blocks: u32) -> u32 {
        let run = self.runs.entry(tag).or_insert(Run { next: u32::MAX, window: 0 });
        let window = if run.next == first { run.window * 2 } else { 0 };
        run.window = window.clamp(count, FETCH_BLOCKS_MAX.max(count));
        run.next = first + count;
        run.window.min(blocks.saturating_sub(first)).max(count)
    }

    fn keep(&mut self, tag: RelTag, first: u32, pages: &[u8]) {
        for (block, page) in (first..).zip(pages.chunks_exact(PAGE_BYTES)) {
            if self.pages.insert((tag, block), page.into()).is_none() {
                self.order.push_back((tag, block));
            }
        }
        while self.order.len() > PAGES_AHEAD_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            self.pages.remove(&oldest);
        }
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").field("server", &self.login.server).field("lsn", &self.lsn).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg::datadir::relation::{Fork, RelNode};

    fn tag() -> RelTag {
        RelNode::new(1663, 5, 16384).fork(Fork::Main)
    }

    #[test]
    fn the_window_grows_while_a_fork_is_read_in_order() {
        let mut ahead = Ahead::default();
        let windows: Vec<u32> = (0..9).map(|block| ahead.window(tag(), block, 1, 1000)).collect();
        assert_eq!(windows, [1, 2, 4, 8, 16, 32, 64, 128, 128]);
        assert_eq!(ahead.window(tag(), 500, 1, 1000), 1, "elsewhere it begins anew");
        assert_eq!(ahead.window(tag(), 501, 1, 502), 1, "never beyond the end");
    }

    #[test]
    fn pages_read_ahead_are_given_once_and_the_oldest_are_dropped() {
        let mut ahead = Ahead::default();
        let page = |fill: u8| vec![fill; PAGE_BYTES];
        ahead.keep(tag(), 10, &[page(1), page(2)].concat());
        assert_eq!(ahead.take(tag(), 11, 2), None, "one of the two is missing");
        assert_eq!(ahead.take(tag(), 10, 2), Some([page(1), page(2)].concat()));
        assert_eq!(ahead.take(tag(), 10, 1), None, "it was given away");
        for block in 0..2 * u32::try_from(PAGES_AHEAD_MAX).expect("small") {
            ahead.keep(tag(), block, &page(3));
        }
        assert!(ahead.pages.len() <= PAGES_AHEAD_MAX && ahead.order.len() <= PAGES_AHEAD_MAX);
    }
}
