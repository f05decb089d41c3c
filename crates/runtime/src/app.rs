//! What runs on the cores: an [`App`] is one service of the process, an [`Applet`] is its one instance on one core.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::nodepool::Control;

/// A future that stays on its core.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Why an applet could not start. Any error value will do: it ends in one log line and the exit status.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// One core of the process, and how to reach the whole.
#[derive(Debug, Clone)]
pub struct Node {
    /// 0 is the core of the main thread.
    pub index: usize,
    /// How many there are.
    pub nodes: usize,
    /// The processor its thread is pinned to.
    pub cpu: Option<usize>,
    /// Stops and reloads the process, and tells its state.
    pub control: Control,
}

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Take nothing new, finish what is under way.
    Drain,
    /// Break off what is under way.
    Now,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drain => "drain",
            Self::Now => "now",
        })
    }
}

/// A service's part on one core.
///
/// Its order of events: made, `start` once, `stop` at most once to the end, dropped. A `start` that fails
/// leaves nothing behind and is followed by no `stop`.
pub trait Applet {
    /// The App's name.
    fn name(&self) -> &'static str;

    /// Brings the service up on this core and returns once it serves; what goes on after that is in tasks. The future
    /// is dropped half-way when the process is asked to stop meanwhile; `stop` follows.
    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, Result<(), Error>>;

    /// Ends what `start` began. A future of [`Stop::Drain`] that takes too long, or is overtaken by an order to
    /// stop now, is dropped half-way, and `stop` is called again with [`Stop::Now`].
    fn stop<'a>(&'a self, how: Stop) -> LocalFuture<'a, ()>;
}

/// Makes a service's applet on each core, exactly one.
pub struct App {
    /// Names it in logs and errors.
    pub name: &'static str,
    /// Called on each core's thread when it is this App's turn.
    pub make: MakeApplet,
}

/// See [`App::make`].
pub type MakeApplet = Box<dyn Fn(&Node) -> Box<dyn Applet> + Send + Sync>;

impl App {
    /// An App of this name.
    pub fn new<F, A>(name: &'static str, make: F) -> Self
    where
        F: Fn(&Node) -> A + Send + Sync + 'static,
        A: Applet + 'static,
    {
        Self { name, make: Box::new(move |node| Box::new(make(node))) }
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("name", &self.name).finish_non_exhaustive()
    }
}
