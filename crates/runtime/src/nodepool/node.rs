//! One core's part: it makes its applets, starts and stops them as told, and reports about itself.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;

use crate::app::{self, App, Applet, Node, Stop};
use crate::executor::{self, JoinHandle};
use crate::mailbox::{Receiver, Reply};

/// What a core is told.
pub(super) enum Command {
    Start { app: usize, done: Reply<Result<(), app::Error>> },
    Stop { app: usize, how: Stop, done: Reply<()> },
    Report(Reply<NodeReport>),
    Exit,
}

/// One core as `/v1/nodes` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// 0 is the main thread's.
    pub node: usize,
    /// The processor its thread is pinned to.
    pub cpu: Option<usize>,
    /// The thread's name.
    pub thread: String,
    /// The I/O back end in use.
    pub backend: String,
    /// Tasks alive.
    pub tasks: usize,
    /// Turns of the loop so far.
    pub turns: u64,
    /// Times a task was run so far.
    pub polls: u64,
    /// Times the core went to sleep in the kernel so far.
    pub parks: u64,
}

/// Serves commands until told to exit. A start or stop overtakes the one before it: that one's future is dropped.
pub(super) async fn serve(node: Node, apps: Arc<[App]>, mut commands: Receiver<Command>) {
    let core = Rc::new(Applets { node, apps, made: RefCell::new(Vec::new()) });
    let mut current: Option<JoinHandle<()>> = None;
    let mut replace = |next: Option<JoinHandle<()>>| {
        if let Some(overtaken) = std::mem::replace(&mut current, next) {
            overtaken.abort();
        }
    };
    while let Some(command) = commands.recv().await {
        match command {
            Command::Start { app, done } => {
                let core = Rc::clone(&core);
                replace(Some(executor::spawn(async move {
                    // Nobody waiting any more is no error.
                    done.send(core.start(app).await).ok();
                })));
            }
            Command::Stop { app, how, done } => {
                replace(None);
                let core = Rc::clone(&core);
                replace(Some(executor::spawn(async move {
                    core.stop(app, how).await;
                    done.send(()).ok();
                })));
            }
            Command::Report(reply) => drop(reply.send(report(&core.node))),
            Command::Exit => break,
        }
    }
    replace(None);
}

/// The applets of this core, in order of their Apps.
struct Applets {
    node: Node,
    apps: Arc<[App]>,
    made: RefCell<Vec<Option<Rc<dyn Applet>>>>,
}

impl Applets {
    async fn start(&self, index: usize) -> Result<(), app::Error> {
        let Some(app) = self.apps.get(index) else { return Ok(()) };
        let applet: Rc<dyn Applet> = Rc::from((app.make)(&self.node));
        self.set(index, Some(Rc::clone(&applet)));
        let result = applet.start(&self.node).await;
        if result.is_err() {
            self.set(index, None);
        }
        result
    }

    async fn stop(&self, index: usize, how: Stop) {
        let applet = self.made.borrow().get(index).cloned().flatten();
        if let Some(applet) = applet {
            applet.stop(how).await;
            self.set(index, None);
        }
    }

    fn set(&self, index: usize, applet: Option<Rc<dyn Applet>>) {
        let replaced = {
            let mut made = self.made.borrow_mut();
            if made.len() <= index {
                made.resize_with(index + 1, || None);
            }
            std::mem::replace(&mut made[index], applet)
        };
        // An applet's destructor may do anything, so it runs with nothing borrowed.
        drop(replaced);
    }
}

fn report(node: &Node) -> NodeReport {
    let stats = executor::stats();
    NodeReport {
        node: node.index,
        cpu: node.cpu,
        thread: std::thread::current().name().unwrap_or("unnamed").to_owned(),
        backend: crate::io::backend().to_string(),
        tasks: stats.tasks,
        turns: stats.turns,
        polls: stats.polls,
        parks: stats.parks,
    }
}
