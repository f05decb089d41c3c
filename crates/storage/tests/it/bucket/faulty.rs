//! A store that refuses, loses requests, loses replies, stalls and goes down, by a seed.

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// Faults in a hundred requests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    /// Not carried out, answered with an error.
    pub(crate) refused: u64,
    /// Carried out, answered with an error.
    pub(crate) reply_lost: u64,
    /// Carried out, never answered.
    pub(crate) stalled: u64,
}

/// Wraps a store that works.
pub(crate) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    faults: Arc<Faults>,
}

/// What goes wrong next; shared with the test.
#[derive(Debug)]
pub(crate) struct Faults {
    rates: Rates,
    state: AtomicU64,
    down: AtomicBool,
    /// Requests that met a fault.
    pub(crate) met: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Well,
    Refused,
    ReplyLost,
    Stalled,
}

impl Faulty {
    pub(crate) fn new(
        inner: Arc<dyn ObjectStore>,
        seed: u64,
        rates: Rates,
    ) -> (Faulty, Arc<Faults>) {
        let faults = Arc::new(Faults {
            rates,
            state: AtomicU64::new(seed),
            down: AtomicBool::new(false),
            met: AtomicU64::new(0),
        });
        (Faulty { inner, faults: Arc::clone(&faults) }, faults)
    }
}

impl Faults {
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    fn next(&self) -> Fate {
        if self.down.load(Ordering::Relaxed) {
            return Fate::Refused;
        }
        // SplitMix64: one addition and a mix of the bits.
        let mut mixed = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let Rates { refused, reply_lost, stalled } = self.rates;
        let fate = match (mixed ^ (mixed >> 31)) % 100 {
            drawn if drawn < refused => Fate::Refused,
            drawn if drawn < refused + reply_lost => Fate::ReplyLost,
            drawn if drawn < refused + reply_lost + stalled => Fate::Stalled,
            _ => Fate::Well,
        };
        self.met.fetch_add(u64::from(fate != Fate::Well), Ordering::Relaxed);
        fate
    }

    async fn apply<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        match self.next() {
            Fate::Well => request.await,
            Fate::Refused => Err(unavailable()),
            Fate::ReplyLost => {
                request.await?;
                Err(unavailable())
            }
            Fate::Stalled => {
                request.await?;
                pending().await
            }
        }
    }
}

fn unavailable() -> Error {
    Error::Generic { store: "faulty", source: "503 slow down".into() }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, what: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.faults.apply(self.inner.put_opts(path, what, how)).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.faults.apply(self.inner.put_multipart_opts(path, how)).await?;
        Ok(Box::new(FaultyUpload { inner, faults: Arc::clone(&self.faults) }))
    }

    async fn get_opts(&self, path: &Path, how: GetOptions) -> Result<GetResult> {
        self.faults.apply(self.inner.get_opts(path, how)).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (inner, faults) = (Arc::clone(&self.inner), Arc::clone(&self.faults));
        let delete = move |path: Result<Path>| {
            let (inner, faults) = (Arc::clone(&inner), Arc::clone(&faults));
            async move {
                let one = stream::iter([path]).boxed();
                let mut deleted = inner.delete_stream(one);
                let request = async { deleted.next().await.expect("an answer for each path") };
                faults.apply(request).await
            }
        };
        paths.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.faults.next() {
            Fate::Well => self.inner.list(prefix),
            Fate::Stalled => stream::pending().boxed(),
            Fate::Refused | Fate::ReplyLost => {
                // Some of the list arrives before the connection breaks.
                self.inner.list(prefix).take(1).chain(stream::iter([Err(unavailable())])).boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.faults.apply(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.faults.apply(self.inner.copy_opts(from, to, how)).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    faults: Arc<Faults>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, faults) = (self.inner.put_part(data), Arc::clone(&self.faults));
        Box::pin(async move { faults.apply(part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let faults = Arc::clone(&self.faults);
        faults.apply(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
