//! A compute as a process: the branch is mounted, a stock Postgres runs on it, until it is told to stop.
//!
//! 1. The mount is in a namespace of this process's own: it goes with the process and its Postgres, however they end,
//!    and nothing outside can touch it or be blocked by it.
//! 2. When this process dies the kernel ends every access to the mount with an error, and tells Postgres to shut down
//!    at once. Nothing hangs.
//! 3. When Postgres dies this process ends: there is no recovery from scratch files.
//! 4. Root is needed to mount, and given up for good before anything is read.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use pageserver::connection::Login;
use pageserver::replica;
use pg::datadir::relation::RelTag;
use pg::lsn::Lsn;
use runtime::clock;
use runtime::executor::{self, block_on};
use runtime::fs::blocking::{self, Lock};
use runtime::fuse::{self, MountOptions, Mounted};
use runtime::identity::{User, effective_uid, is_root};
use runtime::io;
use runtime::process::Child;
use runtime::signal::{Signal, Signals};
use runtime::watchdog::{self, Watchdog};

use crate::boot_set::BootSet;
use crate::branch;
use crate::carried::{Beginning, Carried};
use crate::error::Error;
use crate::limits::{BOOT_RECORDED, HANGS_AFTER, WRITE_BYTES_MAX};
use crate::mount::FileSystem;
use crate::pages::Pages;
use crate::places::Places;
use crate::server;
use crate::settings::{HBA, Wanted, settings};
use crate::skeleton::{self, Skeleton};

/// The account that root becomes if the directory is root's: PostgreSQL refuses to run as root.
const ACCOUNT: &str = "postgres";

/// What to run.
#[derive(Debug)]
pub struct Options {
    /// Who we are to the page service, and at which moment of which branch.
    pub login: Login,
    /// Absolute; for this compute alone.
    pub directory: PathBuf,
    /// The program `postgres`.
    pub program: PathBuf,
    pub wanted: Wanted,
    /// A file in which the pages of a start are remembered for the next ones, by whoever has the same.
    pub boot_set: Option<PathBuf>,
    /// A file in which what ALTER SYSTEM writes is kept for the next one with the same file.
    pub altered: Option<PathBuf>,
    /// Where slots and statistics of a server that was shut down are kept for the next one.
    pub carried: Option<Carried>,
}

/// A compute that takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Where it began.
    pub lsn: Lsn,
    pub postgres_pid: u32,
}

/// Runs until SIGTERM or SIGINT; `ready` is called once it takes connections. The process is used up afterwards: it
/// has given up its rights and parted from the mounts of others.
///
/// # Errors
/// When it cannot start, and when Postgres or the mount ends unasked.
pub fn run(options: &Options, ready: impl FnOnce(Ready)) -> Result<(), Error> {
    let places = Places::below(&options.directory);
    let made = blocking::create_dir_all(&places.directory);
    made.map_err(|source| Error::file("create directory", &places.directory, source))?;
    let lock = places.directory.join("lock");
    let locked = Lock::take(&lock).map_err(|source| Error::file("lock", &lock, source))?;
    let Some(_lock) = locked else { return Err(Error::InUse { directory: places.directory }) };
    places.clear()?;
    let mounted = mount(&places)?;
    let owner = (effective_uid(), runtime::identity::effective_gid());
    let written = blocking::write_atomic(&places.hba, HBA.as_bytes());
    written.map_err(|source| Error::file("write", &places.hba, source))?;
    if options.wanted.follows.is_some() {
        let line = replica::password_line(&options.login);
        let written = blocking::write_atomic(&places.password, line.as_bytes());
        written.map_err(|source| Error::file("write", &places.password, source))?;
    }
    let served = block_on(&io::Options::default(), serve(options, &places, mounted, owner, ready));
    let served = served
        .map_err(|source| Error::file("start an event loop for", &places.directory, source))?;
    places.discard()?;
    served
}

/// Mounts, and becomes the user whom it belongs to.
fn mount(places: &Places) -> Result<Mounted, Error> {
    let failed = |source| Error::Mount { mountpoint: places.data.clone(), source };
    let user = server_user(places)?;
    fuse::enter_namespace().map_err(failed)?;
    let uid = user.as_ref().map_or_else(effective_uid, |user| user.uid);
    let gid = user.as_ref().map_or_else(runtime::identity::effective_gid, |user| user.gid);
    let options = MountOptions {
        name: "howdah",
        uid,
        gid,
        other_users: false,
        read_bytes_max: WRITE_BYTES_MAX,
    };
    let mounted = Mounted::new(&places.data, &options).map_err(failed)?;
    if let Some(user) = user {
        user.assume().map_err(|source| Error::Account { name: user.name, source })?;
    }
    Ok(mounted)
}

/// Whom root becomes: the owner of the directory.
fn server_user(places: &Places) -> Result<Option<User>, Error> {
    if !is_root() {
        return Ok(None);
    }
    let directory = &places.directory;
    let owner = blocking::owner(directory);
    let (uid, _gid) = owner.map_err(|source| Error::file("look at", directory, source))?;
    let found = if uid == 0 { User::named(ACCOUNT) } else { User::with_uid(uid) };
    let name = || if uid == 0 { ACCOUNT.to_owned() } else { uid.to_string() };
    let user = found.and_then(|user| user.ok_or_else(|| std::io::ErrorKind::NotFound.into()));
    let user = user.map_err(|source| Error::Account { name: name(), source })?;
    places.give(user.uid, user.gid)?;
    Ok(Some(user))
}

async fn serve(
    options: &Options,
    places: &Places,
    mounted: Mounted,
    owner: (u32, u32),
    ready: impl FnOnce(Ready),
) -> Result<(), Error> {
    // Whatever waits for a mount that nobody serves waits for ever; if we are gone it gets errors.
    let watchdog = Watchdog::start(HANGS_AFTER, watchdog::end_process);
    let _watchdog =
        watchdog.map_err(|source| Error::file("watch over", &places.directory, source))?;
    let signals = Signals::new(&[Signal::Terminate, Signal::Interrupt]);
    let mut signals =
        signals.map_err(|source| Error::file("handle signals for", &places.directory, source))?;
    let skeleton = match first(prepare(options, places), signals.next()).await {
        First::A(prepared) => prepared?,
        First::B(_signal) => return Ok(()),
    };
    let started = start(options, places, mounted, owner, skeleton, signals.next()).await?;
    let Some(started) = started else { return Ok(()) };
    ready(Ready { lsn: started.lsn, postgres_pid: started.child.pid() });
    let Started { beginning, child, file_system, mut serving, .. } = started;
    let ended = first(first(child.wait(), &mut serving), signals.next()).await;
    let outcome = match ended {
        First::A(First::A(Ok(exit))) => Err(Error::Server(format!("the server ended: {exit}"))),
        First::A(First::A(Err(error))) => Err(Error::Server(format!("the server: {error}"))),
        First::A(First::B(served)) => {
            server::end(&child).await;
            Err(match served {
                Ok(Err(error)) => error,
                _ => Error::Server("the mount is gone".to_owned()),
            })
        }
        First::B(_signal) => {
            server::end(&child).await;
            let carried = options.carried.as_ref();
            carried.map_or(Ok(()), |carried| carried.keep(&file_system, places, beginning))
        }
    };
    // Whoever still has files of the mount open gets errors from here on.
    serving.abort();
    outcome
}

/// A server that takes connections on a mount that is being served.
struct Started {
    lsn: Lsn,
    beginning: Beginning,
    child: Child,
    file_system: Rc<FileSystem>,
    serving: executor::JoinHandle<Result<(), Error>>,
}

/// What is begun with. Nothing is lost when this is given up.
async fn prepare(options: &Options, places: &Places) -> Result<Skeleton, Error> {
    let began = clock::now();
    let mut skeleton = skeleton::fetch(&options.login, places).await?;
    if let Some(file) = &options.altered {
        skeleton.take_altered(file, places)?;
    }
    server::old_one_gone(places, options.wanted.port).await;
    tracing::info!(took = ?began.elapsed(), "the branch's files are here");
    Ok(skeleton)
}

/// `None` if it was told to `stop` before it took connections.
async fn start(
    options: &Options,
    places: &Places,
    mounted: Mounted,
    owner: (u32, u32),
    mut skeleton: Skeleton,
    stop: impl Future,
) -> Result<Option<Started>, Error> {
    let began = clock::now();
    let failed = |source| Error::Mount { mountpoint: places.data.clone(), source };
    let mount = mounted.serve().map_err(failed)?;
    let beginning = Beginning::of(&skeleton);
    if let Some(carried) = &options.carried {
        carried.take(&mut skeleton, places)?;
    }
    let lsn = skeleton.image.facts.lsn;
    let mut tree = branch::tree(&skeleton, places, owner)?;
    if options.wanted.follows.is_some() {
        tree.refuse_links();
    }
    let pages = Rc::new(Pages::new(options.login.clone(), lsn));
    if let Some(file) = &options.boot_set {
        read_ahead(&pages, file, &skeleton.image.relations);
        remember(Rc::clone(&pages), file.clone());
    }
    let file_system =
        FileSystem::new(mount, tree, pages, places.overlay.clone(), options.altered.clone());
    let served = Rc::clone(&file_system);
    let serving = executor::spawn(async move { served.serve().await });
    let child = start_server(options, places, &skeleton, &file_system, stop).await;
    if let Some(carried) = &options.carried {
        match &child {
            Ok(Some(_running)) => carried.taken(),
            _ => carried.keep(&file_system, places, beginning)?,
        }
    }
    let Some(child) = child? else { return Ok(None) };
    let took = began.elapsed();
    tracing::info!(%lsn, ?took, relations = skeleton.image.relations.len(), "ready");
    Ok(Some(Started { lsn, beginning, child, file_system, serving }))
}

/// Returns when it takes connections, or when it has ended because it was told to `stop`.
async fn start_server(
    options: &Options,
    places: &Places,
    skeleton: &Skeleton,
    file_system: &FileSystem,
    stop: impl Future,
) -> Result<Option<Child>, Error> {
    let Skeleton { control, prepared_transactions, .. } = skeleton;
    let altered = skeleton.altered()?;
    let settings = settings(
        &options.wanted,
        &options.login,
        places,
        control,
        *prepared_transactions,
        &altered,
    );
    let child = server::spawn(&options.program, places, &settings)?;
    match first(server::ready(file_system, &child), stop).await {
        First::A(Ok(())) => Ok(Some(child)),
        First::A(Err(error)) => {
            server::end(&child).await;
            Err(error)
        }
        First::B(_told) => {
            server::end(&child).await;
            Ok(None)
        }
    }
}

/// Reads the pages that earlier starts have read, several forks at a time.
fn read_ahead(pages: &Rc<Pages>, file: &Path, relations: &[(RelTag, u32)]) {
    let known = BootSet::parse(&blocking::read_to_string(file).unwrap_or_default());
    let sizes: BTreeMap<RelTag, u32> = relations.iter().copied().collect();
    for (tag, blocks) in known.existing(&sizes) {
        let pages = Rc::clone(pages);
        executor::spawn_detached(async move { pages.read_ahead(tag, &blocks).await });
    }
}

/// Writes down what this start has read.
fn remember(pages: Rc<Pages>, file: PathBuf) {
    pages.record();
    executor::spawn_detached(async move {
        clock::sleep(BOOT_RECORDED).await;
        let text = pages.take_recorded().to_text();
        if let Err(error) = runtime::fs::write_atomic(&file, text.into_bytes()).await {
            tracing::warn!(file = %file.display(), %error, "the pages of a start are not remembered");
        }
    });
}

/// What came first.
enum First<A, B> {
    A(A),
    B(B),
}

/// Waits for one of two; the other is dropped.
async fn first<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> First<A, B> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| {
        if let Poll::Ready(value) = a.as_mut().poll(cx) {
            return Poll::Ready(First::A(value));
        }
        b.as_mut().poll(cx).map(First::B)
    })
    .await
}
