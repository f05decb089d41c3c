//! What the page server is told of computes: what they read stays, what they write is kept.

use std::rc::Rc;

use pageserver::attachment::{Attachment, Server};

use super::{Compute, Manager};
use crate::computes::process::Ready;
use crate::computes::refusal::Refusal;
use crate::limits::COMPUTE_LEASE_SECONDS;

impl Manager {
    /// Has the page server keep the moment that a compute reads from, for a while.
    pub(super) async fn lease(&self, compute: &Compute, lsn: &str) -> Result<(), Refusal> {
        let (branch, holder) = (compute.spec.branch.clone(), compute.holder());
        let leased = self.pages.lease(branch, lsn.to_owned(), holder, COMPUTE_LEASE_SECONDS).await;
        let gone = || Refusal::not_now("the page server does not run");
        leased.ok_or_else(gone)?.map(drop).map_err(Refusal::of_page_server)
    }

    /// The same again, for all that run.
    pub(super) async fn renew_leases(&self) {
        let all: Vec<Rc<Compute>> = self.computes.borrow().values().cloned().collect();
        for compute in all {
            let Some(lsn) = compute.lsn() else { continue };
            if let Err(refusal) = self.lease(&compute, &lsn).await {
                let error = &refusal.error;
                tracing::warn!(compute = compute.name, %error, "what it reads may be thrown away");
            }
        }
    }

    /// Its moment may go.
    pub(super) async fn end_lease(&self, compute: &Compute) {
        let Some(lsn) = compute.lsn() else { return };
        let branch = compute.spec.branch.clone();
        // A branch that is deleted has none; else it ends by itself.
        let _ended = self.pages.end_lease(branch, lsn, compute.holder()).await;
    }

    /// Has the page server keep what a compute writes; before that its commits wait.
    pub(super) async fn attach(&self, compute: &Compute, ready: &Ready) -> Result<(), Refusal> {
        if !compute.spec.writes_branch() {
            return Ok(());
        }
        let server = Server::at(&ready.socket_dir.display().to_string(), ready.port);
        let branch = compute.spec.branch.clone();
        let attached = self.pages.attach(branch, Attachment { server, epoch: None }).await;
        let gone = || Refusal::not_now("the page server does not run");
        let attached = attached.ok_or_else(gone)?.map_err(|problem| {
            let name = &compute.name;
            let refusal =
                Refusal::not_now(format!("the page server does not follow compute \"{name}\""));
            refusal.detail(problem.message)
        })?;
        tracing::info!(
            branch = compute.spec.branch,
            epoch = attached.epoch,
            end = attached.end,
            "attached"
        );
        Ok(())
    }

    /// Whether the page server still follows an earlier compute of its branch, one of an earlier run perhaps.
    pub(super) async fn is_attached(&self, compute: &Compute) -> bool {
        let all = self.pages.branches().await.unwrap_or_default();
        let ours = all.iter().find(|branch| branch.name == compute.spec.branch);
        ours.and_then(|branch| branch.writer.as_ref()).is_some_and(|writer| writer.server.is_some())
    }

    /// Has the page server take nothing more from a branch's last compute: the next begins at its end.
    pub(super) async fn detach(&self, compute: &Compute) {
        if compute.spec.writes_branch() {
            let detached = self.pages.detach(compute.spec.branch.clone()).await;
            if let Some(Err(problem)) = detached {
                tracing::warn!(
                    branch = compute.spec.branch,
                    error = problem.message,
                    "could not detach"
                );
            }
        }
    }
}
