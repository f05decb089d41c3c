//! A compute that the starter has started: a connection to it.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use runtime::executor;
use runtime::mailbox::{self, Receiver, Sender};
use runtime::net::{Address, Stream};
use runtime::signal::Signal;

use super::latch::Latch;
use super::log::Log;
use super::starter::{Connection, KILL, Request, Said, TERMINATE};
use crate::error::{Error, Result, While};

/// A running compute. Dropped, it is told to stop, for its connection is closed.
#[derive(Debug)]
pub(super) struct Helped {
    stream: Rc<Stream>,
    exit: Rc<Latch<String>>,
    pub(super) pid: u32,
    /// Lines of its standard output.
    pub(super) output: RefCell<Receiver<String>>,
}

impl Helped {
    /// Has one started; its standard error goes to `log`.
    pub(super) async fn start(socket: &Path, request: &Request, log: Log) -> Result<Helped> {
        let shown = socket.display();
        let stream = Stream::connect(&Address::Unix(socket.to_owned())).await;
        let stream = Rc::new(stream.or_fail(format_args!("could not connect to \"{shown}\""))?);
        if stream.peer_credentials().map(|peer| peer.uid) != Some(0) {
            return Err(Error::new(format!("who listens at \"{shown}\" is not root")));
        }
        let mut line = serde_json::to_vec(request).expect("plain fields become JSON");
        line.push(b'\n');
        stream.queue(&line);
        let connection = Connection::new(&stream);
        let pid = loop {
            match said(&connection).await {
                Some(Said::Pid(pid)) => break pid,
                Some(Said::Log(line)) => log.write(&line),
                Some(Said::Output(_)) => {}
                Some(Said::Exit(exit)) => {
                    return Err(Error::new(format!("the compute did not start: {exit}")));
                }
                None => return Err(Error::new("what starts computes has gone")),
            }
        };
        let exit = Rc::new(Latch::default());
        let (lines, output) = mailbox::channel(1);
        executor::spawn_detached(read(connection, log, lines, Rc::clone(&exit)));
        Ok(Helped { stream, exit, pid, output: RefCell::new(output) })
    }

    /// Waits for its end; how it ended.
    pub(super) async fn end(&self) -> String {
        self.exit.wait().await
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.stream.queue(if signal == Signal::Kill { KILL } else { TERMINATE });
    }
}

impl Drop for Helped {
    fn drop(&mut self) {
        if self.exit.get().is_none() {
            self.signal(Signal::Terminate);
        }
    }
}

async fn said(connection: &Connection) -> Option<Said> {
    serde_json::from_slice(&connection.line().await?).ok()
}

async fn read(connection: Connection, log: Log, lines: Sender<String>, exit: Rc<Latch<String>>) {
    loop {
        match said(&connection).await {
            Some(Said::Log(line)) => log.write(&line),
            Some(Said::Output(line)) => drop(lines.try_send(line)),
            Some(Said::Pid(_)) => {}
            Some(Said::Exit(how)) => return exit.set(how),
            None => return exit.set("what starts computes has gone".to_owned()),
        }
    }
}
