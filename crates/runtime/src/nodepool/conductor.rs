//! Starts the Apps in order on all cores, waits for the order to stop, and stops them in reverse.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::control::{Control, Phase};
use super::node::Command;
use super::{Error, NodepoolOptions};
use crate::app::{App, Stop};
use crate::clock;
use crate::executor;
use crate::mailbox::{self, Pending, Receiver, Sender};
use crate::signal::{Signal, Signals};

pub(super) struct Conductor {
    cores: Vec<Sender<Command>>,
    apps: Arc<[App]>,
    orders: Receiver<Stop>,
    control: Control,
    drain: Duration,
    stop_now: Duration,
    signals: bool,
}

/// How a wait that an order may overtake ended.
enum Waited<T> {
    Done(T),
    Order(Stop),
}

impl Conductor {
    pub(super) fn new(
        cores: Vec<Sender<Command>>,
        apps: Arc<[App]>,
        orders: Receiver<Stop>,
        control: Control,
        options: &NodepoolOptions,
    ) -> Self {
        let (drain, stop_now, signals) = (options.drain, options.stop_now, options.signals);
        Self { cores, apps, orders, control, drain, stop_now, signals }
    }

    /// Runs the process if the cores are `ready`, and lets them end in any case.
    pub(super) async fn run(mut self, ready: Result<(), Error>) -> Result<(), Error> {
        let result = match ready {
            Ok(()) => self.run_apps().await,
            Err(error) => Err(error),
        };
        for core in &self.cores {
            // A core that is gone needs no order to go.
            core.send(Command::Exit).await.ok();
        }
        result
    }

    async fn run_apps(&mut self) -> Result<(), Error> {
        if self.signals {
            let signals = Signals::new(&[Signal::Terminate, Signal::Interrupt, Signal::Hangup])
                .map_err(|error| Error::Setup { what: "signals", error })?;
            executor::spawn_detached(obey(signals, self.control.clone()));
        }
        for index in 0..self.apps.len() {
            match self.start(index).await {
                Waited::Done(Ok(())) => {}
                Waited::Done(Err(error)) => {
                    tracing::error!(target: "runtime", %error, "stopping what has started");
                    self.stop_all(index + 1, Stop::Now).await;
                    return Err(error);
                }
                Waited::Order(how) => {
                    self.stop_all(index + 1, how).await;
                    return Ok(());
                }
            }
        }
        self.control.set_phase(Phase::Running);
        tracing::info!(target: "runtime", nodes = self.cores.len(), "all services have started");
        let how = self.orders.recv().await.unwrap_or(Stop::Now);
        self.stop_all(self.apps.len(), how).await;
        Ok(())
    }

    /// Starts one App on every core and waits until it has started, or failed, on each.
    async fn start(&mut self, index: usize) -> Waited<Result<(), Error>> {
        let name = self.apps.get(index).map_or("", |app| app.name);
        let mut started = Vec::with_capacity(self.cores.len());
        for core in &self.cores {
            let (done, pending) = mailbox::oneshot();
            // A core that is gone drops the reply, which is seen below.
            core.send(Command::Start { app: index, done }).await.ok();
            started.push(pending);
        }
        let all = async {
            let mut result = Ok(());
            for (node, pending) in started.into_iter().enumerate() {
                let outcome = pending
                    .await
                    .unwrap_or_else(|dropped| Err(Box::new(dropped) as crate::app::Error));
                if let Err(error) = outcome {
                    // The first error is the one that is returned; the others are seen only here.
                    if result.is_ok() {
                        result = Err(Error::Start { app: name, node, error });
                    } else {
                        tracing::error!(target: "runtime", app = name, node, %error, "could not start");
                    }
                }
            }
            result
        };
        let waited = or_order(&mut self.orders, all).await;
        if matches!(waited, Waited::Done(Ok(()))) {
            tracing::debug!(target: "runtime", app = name, "started on all nodes");
        }
        waited
    }

    /// Stops the first `count` Apps, the last one first. Where one has not started or has failed on a core, stopping it
    /// there does nothing.
    async fn stop_all(&mut self, count: usize, how: Stop) {
        self.control.set_phase(Phase::Stopping);
        tracing::info!(target: "runtime", %how, "stopping");
        let mut how = how;
        let drained_by = clock::precise() + self.drain;
        let mut stopped_by = None;
        for index in (0..count).rev() {
            let name = self.apps.get(index).map_or("", |app| app.name);
            if how == Stop::Drain {
                how = self.drain(index, drained_by).await;
            }
            if how == Stop::Now {
                let by = *stopped_by.get_or_insert_with(|| clock::precise() + self.stop_now);
                let stopped = self.tell_to_stop(index, Stop::Now).await;
                // Without time left the Apps below are still told, and may do what they can at once.
                let wait = by.saturating_duration_since(clock::precise());
                if clock::timeout(wait, all(stopped)).await.is_err() {
                    tracing::error!(target: "runtime", app = name, "did not stop in time, going on");
                }
            }
            tracing::debug!(target: "runtime", app = name, "stopped on all nodes");
        }
    }

    /// Drains one App; how to go on.
    async fn drain(&mut self, index: usize, drained_by: clock::Instant) -> Stop {
        let stopped = self.tell_to_stop(index, Stop::Drain).await;
        let wait = drained_by.saturating_duration_since(clock::precise());
        let mut drained = pin!(clock::timeout(wait, all(stopped)));
        loop {
            match or_order(&mut self.orders, drained.as_mut()).await {
                Waited::Done(Ok(())) => return Stop::Drain,
                Waited::Done(Err(_elapsed)) => {
                    tracing::warn!(target: "runtime", "draining took too long, stopping now");
                    return Stop::Now;
                }
                Waited::Order(Stop::Now) => return Stop::Now,
                Waited::Order(Stop::Drain) => {}
            }
        }
    }

    async fn tell_to_stop(&self, index: usize, how: Stop) -> Vec<Pending<()>> {
        let mut stopped = Vec::with_capacity(self.cores.len());
        for core in &self.cores {
            let (done, pending) = mailbox::oneshot();
            core.send(Command::Stop { app: index, how, done }).await.ok();
            stopped.push(pending);
        }
        stopped
    }
}

async fn all(stopped: Vec<Pending<()>>) {
    for pending in stopped {
        // A core that is gone has stopped.
        pending.await.ok();
    }
}

/// Waits for `work`, or for an order, whichever comes first.
async fn or_order<F: Future>(orders: &mut Receiver<Stop>, work: F) -> Waited<F::Output> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(Some(how)) = orders.poll_recv(cx) {
            return Poll::Ready(Waited::Order(how));
        }
        work.as_mut().poll(cx).map(Waited::Done)
    })
    .await
}

/// SIGTERM drains, SIGINT stops; either again stops now. SIGHUP reloads.
async fn obey(mut signals: Signals, control: Control) {
    let mut asked = false;
    loop {
        let signal = signals.next().await;
        tracing::info!(target: "runtime", %signal, "signal received");
        match signal {
            Signal::Hangup => control.reload(),
            Signal::Terminate if !asked => control.stop(Stop::Drain),
            _ => control.stop(Stop::Now),
        }
        asked |= signal != Signal::Hangup;
    }
}
