//! The page server as one thing that starts and stops, on one core.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use runtime::executor::{self, JoinHandle};
use runtime::net::Address;

use crate::api::Status;
use crate::error::Error;
use crate::follower::Follower;
use crate::maintenance;
use crate::page_service::PageService;
use crate::remote::ObjectStore;
use crate::settings::Settings;

/// A running page server, on the core that started it.
pub struct Server {
    follower: Rc<Follower>,
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Binds the page service and begins to follow Postgres; a base backup and the catching up go
    /// on in the background.
    pub fn start(settings: Settings) -> Result<Server, Error> {
        let checked = settings.check();
        checked.map_err(|message| Error::Refused { message, hint: "see howdah.toml" })?;
        let store = ObjectStore::of(&settings)?.map(Rc::new);
        let follower = Rc::new(Follower::new(settings));
        if let Some(store) = &store {
            follower.set_store(Rc::clone(store));
        }
        let service = PageService::new(Rc::clone(&follower))?;
        let failed = |source| {
            let server = format!("page service {}", follower.settings.listen);
            Error::Connection { server, source }
        };
        let listener = service.listen().map_err(failed)?;
        let Address::Tcp(address) = listener.local_address() else {
            return Err(failed(io::ErrorKind::AddrNotAvailable.into()));
        };
        follower.listening_at(address);
        let follow = Rc::clone(&follower);
        let mut tasks = vec![
            executor::spawn(async move { Box::pin(follow.run()).await }),
            executor::spawn(service.run(listener)),
            executor::spawn(maintenance::run(Rc::clone(&follower))),
            executor::spawn(maintenance::watch_disk(Rc::clone(&follower))),
        ];
        tasks.extend(store.map(|store| executor::spawn(store.run(Rc::clone(&follower)))));
        tracing::info!(%address, "page service listens");
        Ok(Server { follower, address, tasks })
    }

    /// Where the page service listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn status(&self) -> Status {
        self.follower.status()
    }

    /// The state behind it.
    pub fn follower(&self) -> Rc<Follower> {
        Rc::clone(&self.follower)
    }

    /// Says the last position to Postgres, tells clients, closes all files.
    pub async fn stop(self) {
        self.follower.stop().raise(1);
        for task in self.tasks {
            // A task that was aborted has nothing left to close.
            let _ended = task.await;
        }
        self.follower.stop_branches().await;
    }
}
