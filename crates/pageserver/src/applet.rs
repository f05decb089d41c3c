//! The page server as an applet of the nodepool.

use std::cell::RefCell;
use std::rc::Rc;

use runtime::app::{self, App, Applet, LocalFuture, Node, Stop};
use runtime::executor::{self, JoinHandle};
use runtime::mailbox::Receiver;

use crate::answers;
use crate::api::{Handle, Question};
use crate::server::Server;
use crate::settings::Settings;

/// The service's name in logs and in the nodepool.
const NAME: &str = "pageserver";

/// The page server in a nodepool: on the first node; the others idle until chunks are spread.
pub struct Pageserver {
    settings: Settings,
    handle: Handle,
    server: Rc<RefCell<Option<Server>>>,
    answering: RefCell<Option<JoinHandle<()>>>,
}

impl Pageserver {
    /// The app, and a handle to ask it with from anywhere in the process.
    pub fn app(settings: Settings) -> (App, Handle) {
        let handle = Handle::default();
        let shared = handle.clone();
        let make = move |_node: &Node| Pageserver {
            settings: settings.clone(),
            handle: shared.clone(),
            server: Rc::default(),
            answering: RefCell::default(),
        };
        (App::new(NAME, make), handle)
    }

    fn answer(&self, mut questions: Receiver<Question>) -> JoinHandle<()> {
        let server = Rc::clone(&self.server);
        executor::spawn(async move {
            while let Some(question) = questions.recv().await {
                let follower = server.borrow().as_ref().map(Server::follower);
                if let Some(follower) = follower {
                    executor::spawn_detached(answers::answer(follower, question));
                }
            }
        })
    }
}

impl Applet for Pageserver {
    fn name(&self) -> &'static str {
        NAME
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, Result<(), app::Error>> {
        Box::pin(async {
            if node.index != 0 {
                return Ok(());
            }
            let Some(questions) = self.handle.connect() else { return Ok(()) };
            *self.server.borrow_mut() = Some(Server::start(self.settings.clone())?);
            *self.answering.borrow_mut() = Some(self.answer(questions));
            Ok(())
        })
    }

    fn stop<'a>(&'a self, _how: Stop) -> LocalFuture<'a, ()> {
        Box::pin(async {
            if let Some(answering) = self.answering.take() {
                answering.abort();
            }
            let server = self.server.take();
            if let Some(server) = server {
                server.stop().await;
            }
        })
    }
}
