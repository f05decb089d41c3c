//! Pages of the branch, from the page server: batched, read ahead where a relation is read in order.
//!
//! 1. What is read in order is asked for before the kernel does, so that the server works while Postgres does.
//! 2. A page that is on its way is not asked for again: whoever wants it waits.
//!
//! A page server that does not answer is asked again for as long as the mount lives, at once where a connection was lost
//! that had idled: Postgres waits as it would for a slow disk. A page that it refuses is an error of that page alone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use pageserver::client::{Client, ClientError, PageStream};
use pageserver::connection::Login;
use pg::datadir::relation::RelTag;
use pg::lsn::Lsn;
use runtime::clock;
use runtime::executor;

use crate::boot_set::BootSet;
use crate::limits::{
    FETCH_BLOCKS_MAX, PAGES_AHEAD_MAX, RETRY_PAUSE_MAX, RETRY_PAUSE_MIN, STREAMS_MAX,
    WINDOW_BLOCKS_MAX,
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

/// A page's bytes, which go from hand to hand: only the kernel gets a copy.
type Page = Box<[u8]>;

/// Pages that were read before they were asked for.
#[derive(Default)]
struct Ahead {
    pages: BTreeMap<(RelTag, u32), Page>,
    /// In the order of arrival: the oldest goes first.
    order: VecDeque<(RelTag, u32)>,
    /// Pages that were asked for and are not here yet.
    coming: BTreeMap<(RelTag, u32), Rc<Arrival>>,
    runs: BTreeMap<RelTag, Run>,
}

/// How a fork is being read.
#[derive(Clone, Copy, Default)]
struct Run {
    /// The block after the last one read.
    next: u32,
    /// How far ahead of it pages are asked for; 0: it is not read in order.
    window: u32,
    /// Up to where they have been.
    asked: u32,
}

/// The end of a question to the page server, for those who wait for one of its pages.
#[derive(Default)]
struct Arrival {
    is_over: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
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
        let questions = blocks.chunks(usize::try_from(FETCH_BLOCKS_MAX).unwrap_or(1));
        // All of them are on their way from here on, though some wait for their turn.
        let questions: Vec<_> =
            questions.map(|blocks| (blocks, self.ahead.borrow_mut().expect(tag, blocks))).collect();
        for (blocks, arrival) in questions {
            let answer = self.fetch(tag, blocks).await;
            let mut ahead = self.ahead.borrow_mut();
            if let Ok(pages) = answer {
                for (block, page) in blocks.iter().zip(pages) {
                    ahead.keep(tag, *block, page);
                }
            }
            ahead.arrived(tag, blocks, &arrival);
        }
    }

    /// Blocks `first..first + count` of a fork that has `blocks`, one after another.
    ///
    /// # Errors
    /// When the page server refuses one of them.
    pub async fn read(
        self: &Rc<Pages>,
        tag: RelTag,
        first: u32,
        count: u32,
        blocks: u32,
    ) -> Result<Vec<Page>, Refused> {
        if let Some(recorded) = self.recorded.borrow_mut().as_mut() {
            (first..first + count).for_each(|block| recorded.add(tag, block));
        }
        let next = self.ahead.borrow_mut().go_on(tag, first, count, blocks);
        let next: Vec<u32> = next.collect();
        if !next.is_empty() {
            let pages = Rc::clone(self);
            executor::spawn_detached(async move { pages.read_ahead(tag, &next).await });
        }
        loop {
            let coming = {
                let mut ahead = self.ahead.borrow_mut();
                if let Some(pages) = ahead.take(tag, first, count) {
                    return Ok(pages);
                }
                ahead.coming(tag, first, count)
            };
            let Some(coming) = coming else { break };
            coming.wait().await;
        }
        let wanted: Vec<u32> = (first..first + count).collect();
        let arrival = self.ahead.borrow_mut().expect(tag, &wanted);
        let answer = self.fetch(tag, &wanted).await;
        self.ahead.borrow_mut().arrived(tag, &wanted, &arrival);
        answer
    }

    /// Asks until there is an answer.
    async fn fetch(&self, tag: RelTag, blocks: &[u32]) -> Result<Vec<Page>, Refused> {
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let taken = self.take().await;
            let has_idled = taken.stream.is_some();
            match taken.ask(tag, blocks, self.lsn).await {
                Ok(pages) => return Ok(pages),
                Err(ClientError::Refused { sqlstate, message, detail }) => {
                    tracing::error!(%sqlstate, message, detail, "the page server refused a page");
                    return Err(Refused);
                }
                // The page server was restarted meanwhile, or has closed it; so it has the others that idle. Only a new
                // connection shows whether it is there.
                Err(ClientError::Connection(_)) if has_idled => self.close_idle(),
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

    fn close_idle(&self) {
        let idle = std::mem::take(&mut self.streams.borrow_mut().idle);
        drop(idle);
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
    async fn ask(
        mut self,
        tag: RelTag,
        blocks: &[u32],
        lsn: Lsn,
    ) -> Result<Vec<Page>, ClientError> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => Client::log_in(&self.pages.login).await?.into_stream().await?,
        };
        let answer = stream.pages_apart(tag, blocks, lsn).await;
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
    fn take(&mut self, tag: RelTag, first: u32, count: u32) -> Option<Vec<Page>> {
        let asked = first..first.checked_add(count)?;
        if !asked.clone().all(|block| self.pages.contains_key(&(tag, block))) {
            return None;
        }
        asked.map(|block| self.pages.remove(&(tag, block))).collect()
    }

    /// Notes a read, and answers which blocks to ask for now, before they are read: more and more while a fork is read
    /// in order, in questions that are not small.
    fn go_on(&mut self, tag: RelTag, first: u32, count: u32, blocks: u32) -> std::ops::Range<u32> {
        let run = self.runs.entry(tag).or_insert(Run { next: u32::MAX, ..Run::default() });
        let is_in_order = run.next == first;
        let next = first.saturating_add(count);
        run.window =
            if is_in_order { (run.window.max(count) * 2).min(WINDOW_BLOCKS_MAX) } else { 0 };
        run.asked = if is_in_order { run.asked.max(next) } else { next };
        run.next = next;
        let end = next.saturating_add(run.window).min(blocks);
        let is_worth_it = end.saturating_sub(run.asked) >= run.window / 2 || end == blocks;
        if run.asked >= end || !is_worth_it {
            return 0..0;
        }
        let asked = run.asked..end;
        run.asked = end;
        asked
    }

    /// Blocks are on their way.
    fn expect(&mut self, tag: RelTag, blocks: &[u32]) -> Rc<Arrival> {
        let arrival = Rc::<Arrival>::default();
        for &block in blocks {
            self.coming.insert((tag, block), Rc::clone(&arrival));
        }
        arrival
    }

    /// They are here, or will not come.
    fn arrived(&mut self, tag: RelTag, blocks: &[u32], arrival: &Rc<Arrival>) {
        for &block in blocks {
            // It may have been asked for twice; the later question is the one to wait for.
            if self.coming.get(&(tag, block)).is_some_and(|coming| Rc::ptr_eq(coming, arrival)) {
                self.coming.remove(&(tag, block));
            }
        }
        arrival.is_over.set(true);
        arrival.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// What to wait for before any of these blocks is asked for.
    fn coming(&self, tag: RelTag, first: u32, count: u32) -> Option<Rc<Arrival>> {
        (first..first + count).find_map(|block| self.coming.get(&(tag, block)).cloned())
    }

    fn keep(&mut self, tag: RelTag, block: u32, page: Page) {
        if self.pages.insert((tag, block), page).is_none() {
            self.order.push_back((tag, block));
        }
        while self.order.len() > PAGES_AHEAD_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            self.pages.remove(&oldest);
        }
    }
}

impl Arrival {
    async fn wait(&self) {
        poll_fn(|cx| {
            if self.is_over.get() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
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
    use crate::limits::PAGE_BYTES;
    use pageserver::messages::Messages;
    use pageserver::settings::Password;
    use pageserver::tls::Encryption;
    use pg::datadir::relation::{Fork, RelNode};
    use pg::wire::backend::write::{authentication, copy_both, copy_data, ready_for_query};
    use pg::wire::backend::{Authentication, TransactionStatus};
    use pg::wire::pagestream::{Answer, Question, Reply, Request};
    use runtime::executor::JoinHandle;
    use runtime::io::{Backend, Options};
    use runtime::net::{ListenOptions, Listener, Stream};

    fn tag() -> RelTag {
        RelNode::new(1663, 5, 16384).fork(Fork::Main)
    }

    #[test]
    fn the_window_grows_while_a_fork_is_read_in_order() {
        let mut ahead = Ahead::default();
        let asked: Vec<_> = (0..8).map(|block| ahead.go_on(tag(), block, 1, 1000)).collect();
        assert_eq!(asked, [0..0, 2..4, 4..7, 7..12, 12..21, 21..38, 38..71, 71..136]);
        assert_eq!(ahead.go_on(tag(), 500, 1, 1000), 0..0, "elsewhere it begins anew");
        assert_eq!(ahead.go_on(tag(), 501, 16, 520), 517..520, "never beyond the end");
    }

    #[test]
    fn a_long_scan_asks_in_questions_that_are_not_small() {
        let mut ahead = Ahead::default();
        let reads = (0..1000).map(|number| ahead.go_on(tag(), number * 16, 16, 16_000));
        let asked: Vec<_> = reads.filter(|asked| !asked.is_empty()).collect();
        let mut end = asked[0].start;
        for asked in &asked {
            assert_eq!(asked.start, end, "each block once");
            end = asked.end;
        }
        assert_eq!(end, 16_000);
        let small = asked.iter().filter(|asked| asked.len() < 64).count();
        assert!(small <= 4, "{asked:?}");
    }

    #[test]
    fn pages_on_their_way_are_waited_for() {
        let mut ahead = Ahead::default();
        let first = ahead.expect(tag(), &[5, 6]);
        assert!(ahead.coming(tag(), 4, 2).is_some());
        assert!(ahead.coming(tag(), 7, 2).is_none());
        let second = ahead.expect(tag(), &[6]);
        ahead.arrived(tag(), &[5, 6], &first);
        assert!(first.is_over.get() && ahead.coming(tag(), 5, 1).is_none());
        assert!(ahead.coming(tag(), 6, 1).is_some(), "the later question is still open");
        ahead.arrived(tag(), &[6], &second);
        assert!(ahead.coming.is_empty());
    }

    #[test]
    fn pages_read_ahead_are_given_once_and_the_oldest_are_dropped() {
        let mut ahead = Ahead::default();
        let page = |fill: u8| Page::from([fill; PAGE_BYTES]);
        ahead.keep(tag(), 10, page(1));
        ahead.keep(tag(), 11, page(2));
        assert_eq!(ahead.take(tag(), 11, 2), None, "one of the two is missing");
        assert_eq!(ahead.take(tag(), 10, 2), Some(vec![page(1), page(2)]));
        assert_eq!(ahead.take(tag(), 10, 1), None, "it was given away");
        for block in 0..2 * u32::try_from(PAGES_AHEAD_MAX).expect("small") {
            ahead.keep(tag(), block, page(3));
        }
        assert!(ahead.pages.len() <= PAGES_AHEAD_MAX && ahead.order.len() <= PAGES_AHEAD_MAX);
    }

    /// A page service that knows one thing: each page is full of its number.
    async fn answer(stream: Stream) -> std::io::Result<()> {
        let (mut messages, mut out) = (Messages::new(stream, 1 << 20), Vec::new());
        let start_up = messages.receive_raw().await?.len();
        messages.take_raw(start_up);
        authentication(&mut out, Authentication::Ok);
        ready_for_query(&mut out, TransactionStatus::Idle);
        messages.send(&out).await?;
        messages.receive().await?;
        out.clear();
        copy_both(&mut out);
        messages.send(&out).await?;
        loop {
            let asked = messages.receive().await?;
            let request = Request::read(messages.body(&asked)).expect("a question");
            let Question::Pages(_tag, blocks) = request.question else { return Ok(()) };
            let pages: Vec<u8> = blocks.iter().flat_map(|block| page_of(block).to_vec()).collect();
            let (mut data, mut out) = (Vec::new(), Vec::new());
            let answer = Answer::Pages(&pages);
            Reply { id: request.id, lsn: request.lsn, answer }.write(&mut data);
            copy_data(&mut out, &data);
            messages.send(&out).await?;
        }
    }

    fn page_of(block: u32) -> Page {
        Page::from([block.to_le_bytes()[0]; PAGE_BYTES])
    }

    type Connections = Rc<RefCell<Vec<JoinHandle<std::io::Result<()>>>>>;

    /// Where it listens, and its connections from the first one on.
    fn page_service() -> (String, Connections) {
        let address = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(&address, &ListenOptions::default()).expect("a free port");
        let (address, connections) = (listener.local_address().to_string(), Connections::default());
        let accepted = Rc::clone(&connections);
        executor::spawn_detached(async move {
            while let Ok((stream, _peer)) = listener.accept().await {
                accepted.borrow_mut().push(executor::spawn(answer(stream)));
            }
        });
        (address, connections)
    }

    #[test]
    fn a_page_server_that_was_restarted_is_asked_at_once() {
        executor::block_on(&Options::on(Backend::Simulated), async {
            let (server, connections) = page_service();
            let login = Login {
                server,
                user: "u".to_owned(),
                password: Password(String::new()),
                application_name: String::new(),
                database: "main".to_owned(),
                encryption: Encryption::default(),
            };
            let pages = Rc::new(Pages::new(login, Lsn(100)));
            let ask = |block| {
                let pages = Rc::clone(&pages);
                executor::spawn(async move { pages.fetch(tag(), &[block]).await })
            };
            let asked: Vec<_> = (0..8).map(ask).collect();
            for (asked, block) in asked.into_iter().zip(0..) {
                assert_eq!(asked.await.expect("it ends"), Ok(vec![page_of(block)]));
            }
            assert_eq!(connections.borrow().len(), STREAMS_MAX, "all that there may be");
            connections.borrow_mut().drain(..).for_each(|connection| connection.abort());
            clock::sleep(std::time::Duration::from_secs(1)).await;
            let begin = clock::now();
            assert_eq!(ask(9).await.expect("it ends"), Ok(vec![page_of(9)]));
            // In the simulator's time.
            assert!(
                clock::now() - begin < RETRY_PAUSE_MIN,
                "one that idled was taken after another"
            );
            assert_eq!(connections.borrow().len(), 1, "what is dead is not counted on again");
        })
        .expect("the world goes on");
    }
}
