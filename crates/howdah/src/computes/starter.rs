//! The process that stays root when `howdah up` becomes an ordinary user: mounting takes root, so it starts computes, and
//! does nothing else.
//!
//! 1. It takes requests from one user, whom it knows by the socket itself, and starts one program, itself, in one folder.
//! 2. A compute gives up root as soon as it has mounted; its output is passed on, so that nothing is opened as root.
//! 3. A connection is a compute: when it is closed the compute is stopped. When `howdah up` ends, so does this.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use runtime::executor::{self, block_on};
use runtime::fs::blocking as fs;
use runtime::io;
use runtime::net::{Address, ListenOptions, Listener, Stream};
use runtime::process::{Child, Command, Output, Stranger};
use runtime::random;
use runtime::signal::{Signal, Signals};
use serde::{Deserialize, Serialize};

use super::latch::{First, first};
use crate::error::{Error, Result, While};
use crate::limits::{COMPUTE_MESSAGE_BYTES_MAX, POSTGRES_FAST_WAIT};

/// Who the starter is for, and where it listens.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Path of its socket, in a folder to be made
    #[arg(long)]
    pub socket: PathBuf,
    /// The process that this ends with
    #[arg(long)]
    pub parent: u32,
    /// The user that may ask
    #[arg(long)]
    pub uid: u32,
    /// Folder of the computes' directories
    #[arg(long)]
    pub folder: PathBuf,
}

/// Where the socket's folder is: root's.
const RUN: &str = "/run";

/// The first message of a connection: what to start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Name of its directory in the folder.
    pub(super) place: u32,
    /// Of `howdah compute run`, but for the directory.
    pub(super) arguments: Vec<String>,
    /// Environment variables, of those that a compute reads.
    pub(super) environment: Vec<(String, String)>,
}

/// What may be set for a compute.
const ENVIRONMENT: [&str; 3] = ["PGUSER", "PGPASSWORD", "HOWDAH_PG_BIN"];

/// The answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Said {
    Pid(u32),
    /// A line of its standard output, and of its standard error.
    Output(String),
    Log(String),
    /// How it ended; the last message.
    Exit(String),
}

/// What the other side may send after the request.
pub(super) const TERMINATE: &[u8] = b"terminate\n";
pub(super) const KILL: &[u8] = b"kill\n";

/// Starts the starter, for a process that is root and will be `uid`; the path of its socket. It must be single-threaded.
pub fn launch(program: &Path, uid: u32, folder: &Path) -> Result<PathBuf> {
    let mut bytes = [0; 8];
    random::fill(&mut bytes);
    let socket =
        Path::new(RUN).join(format!("howdah-{}", u64::from_ne_bytes(bytes))).join("starter");
    let command = Command::new(program)
        .args(["compute", "starter", "--uid", &uid.to_string()])
        .args(["--parent", &std::process::id().to_string(), "--socket"])
        .arg(&socket)
        .arg("--folder")
        .arg(folder)
        .current_dir("/")
        .new_session();
    command.spawn_unwatched().or_fail("could not start what starts computes")?;
    Ok(socket)
}

/// `howdah compute starter`: runs until its parent ends.
pub fn run(options: &Options, program: &Path) -> Result<()> {
    let served = block_on(&io::Options::default(), serve(options, program));
    served.or_fail("could not start an I/O loop")?
}

async fn serve(options: &Options, program: &Path) -> Result<()> {
    let signals = Signals::new(&[Signal::Terminate, Signal::Interrupt]);
    let mut signals = signals.or_fail("could not handle signals")?;
    let parent = Stranger::with_pid(options.parent).or_fail("could not watch the parent")?;
    let Some(parent) = parent else { return Ok(()) };
    let shown = options.socket.display();
    let folder = options.socket.parent().unwrap_or(Path::new(RUN));
    fs::create_dir_all(folder).or_fail(format_args!("could not make \"{}\"", folder.display()))?;
    // Whoever comes is asked who he is.
    let listen = ListenOptions { unix_mode: Some(0o666), ..ListenOptions::default() };
    let listener = Listener::bind(&Address::Unix(options.socket.clone()), &listen);
    let listener = listener.or_fail(format_args!("could not listen at \"{shown}\""))?;
    // Now that nothing is made in it any more the user may enter; the folder around it stays root's.
    let given = fs::set_owner(folder, options.uid, 0);
    given.or_fail(format_args!("could not give away \"{}\"", folder.display()))?;
    let accepting = accept(&listener, options, program);
    // The kernel would not let it signal us as it dies: it is not root any more.
    let ended = first(accepting, first(parent.end(), signals.next())).await;
    drop(listener);
    let _left = fs::remove_dir_all(folder);
    match ended {
        First::A(error) => Err(error),
        First::B(_parent_or_signal) => Ok(()),
    }
}

async fn accept(listener: &Listener, options: &Options, program: &Path) -> Error {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _address)) => stream,
            Err(error) => return Error::new(format!("could not accept: {error}")),
        };
        let asks = stream.peer_credentials().map(|peer| peer.uid);
        if asks != Some(options.uid) {
            continue;
        }
        let (options, program) = (options.clone(), program.to_owned());
        executor::spawn_detached(async move {
            let stream = Rc::new(stream);
            if let Err(error) = Connection::new(&stream).serve(&options, &program).await {
                say(&stream, &Said::Log(format!("howdah: error: {error}")));
                say(&stream, &Said::Exit("it was not started".to_owned()));
                let _they_are_gone = stream.shutdown().await;
            }
        });
    }
}

/// Lines from the other side.
pub(super) struct Connection {
    stream: Rc<Stream>,
    bytes: RefCell<Vec<u8>>,
}

impl Connection {
    pub(super) fn new(stream: &Rc<Stream>) -> Self {
        Self { stream: Rc::clone(stream), bytes: RefCell::default() }
    }

    /// The next line; `None` at the end, and after one that is longer than any should be.
    pub(super) async fn line(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut bytes = self.bytes.borrow_mut();
                if let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
                    let rest = bytes.split_off(end + 1);
                    return Some(std::mem::replace(&mut *bytes, rest));
                }
                if bytes.len() > COMPUTE_MESSAGE_BYTES_MAX {
                    return None;
                }
            }
            let chunk = self.stream.recv().await.ok().filter(|chunk| !chunk.is_empty())?;
            self.bytes.borrow_mut().extend_from_slice(&chunk);
        }
    }

    async fn serve(&self, options: &Options, program: &Path) -> Result<()> {
        let Some(line) = self.line().await else { return Ok(()) };
        let request: Request = serde_json::from_slice(&line).or_fail("not a request")?;
        let child = self.spawn(options, program, request)?;
        say(&self.stream, &Said::Pid(child.pid()));
        let mut closed = false;
        let exit = loop {
            let order = async {
                if closed {
                    std::future::pending::<()>().await;
                }
                self.line().await
            };
            match first(child.wait(), order).await {
                First::A(exit) => break exit,
                First::B(Some(order)) if order == KILL => signal(&child, Signal::Kill),
                First::B(Some(_order)) => signal(&child, Signal::Terminate),
                First::B(None) => {
                    closed = true;
                    signal(&child, Signal::Terminate);
                    if runtime::clock::timeout(POSTGRES_FAST_WAIT, child.wait()).await.is_err() {
                        signal(&child, Signal::Kill);
                    }
                }
            }
        };
        let exit = exit.map_or_else(|error| error.to_string(), |exit| exit.to_string());
        let mut child = child;
        child.output_end().await;
        say(&self.stream, &Said::Exit(exit));
        let _they_are_gone = self.stream.shutdown().await;
        Ok(())
    }

    fn spawn(&self, options: &Options, program: &Path, request: Request) -> Result<Child> {
        let place = options.folder.join(request.place.to_string());
        // A link would lead root to where the user has no business.
        let owner = fs::folder_owner(&place);
        let owner = owner.or_fail(format_args!("could not look at \"{}\"", place.display()))?;
        if owner != Some(options.uid) {
            return Err(Error::new(format!(
                "\"{}\" is not a folder of the user's",
                place.display()
            )));
        }
        let tell = |make: fn(String) -> Said| {
            let stream = Rc::clone(&self.stream);
            Output::lines(move |line| say(&stream, &make(line.to_owned())))
        };
        let mut command = Command::new(program)
            .args(["compute", "run", "--dir"])
            .arg(&place)
            .args(&request.arguments)
            .current_dir("/")
            .new_session()
            .signal_on_drop(Signal::Terminate)
            .stdout(tell(Said::Output))
            .stderr(tell(Said::Log));
        let known = |name: &&(String, String)| ENVIRONMENT.contains(&name.0.as_str());
        for (name, value) in request.environment.iter().filter(known) {
            command = command.env(name, value);
        }
        command.spawn().or_fail("could not start a compute")
    }
}

fn signal(child: &Child, signal: Signal) {
    // It has ended meanwhile: then that is what is seen next.
    let _gone = child.signal(signal);
}

/// Sends a message. A side that does not read loses the log, not the end.
pub(super) fn say(stream: &Stream, said: &Said) {
    if matches!(said, Said::Log(_)) && stream.queued() > COMPUTE_MESSAGE_BYTES_MAX {
        return;
    }
    let mut line = serde_json::to_vec(said).expect("plain fields become JSON");
    line.push(b'\n');
    stream.queue(&line);
}
