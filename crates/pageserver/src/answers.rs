//! Answers to what the API asks.

use std::rc::Rc;

use runtime::executor;
use storage::store::scrub::ScrubProgress;

use crate::api::{Attached, Branch, Moment, Problem, Question, Scrub, Writer};
use crate::branches::{self, At, BranchError, Branches, Writing};
use crate::follower::Follower;
use crate::time;
use crate::timeline::Timeline;

/// Answers one question. Who asked may have gone away meanwhile.
pub(crate) async fn answer(follower: Rc<Follower>, question: Question) {
    let branches = follower.branches();
    match question {
        Question::Status(reply) => drop(reply.send(follower.status())),
        Question::Branches(reply) => {
            let all = branches.as_ref().map(|branches| branches.all());
            let all = branches.zip(all).map(|(branches, all)| {
                all.iter().map(|timeline| branch(&branches, timeline)).collect()
            });
            drop(reply.send(all));
        }
        Question::CreateBranch { name, from, at, reply } => {
            let made = match &branches {
                Some(branches) => {
                    let made = branches.create(&name, &from, At::parse(&at)).await;
                    made.map(|timeline| branch(branches, &timeline))
                }
                None => Err(not_ready()),
            };
            drop(reply.send(made.map_err(problem)));
        }
        Question::DeleteBranch { name, reply } => {
            let deleted = match branches {
                Some(branches) => branches.delete(&name).await,
                None => Err(not_ready()),
            };
            drop(reply.send(deleted.map_err(problem)));
        }
        Question::Attach { name, wanted, reply } => {
            let attached = match branches {
                Some(branches) => branches.attach(&name, wanted).await,
                None => Err(not_ready()),
            };
            drop(reply.send(attached.map(answer_of).map_err(problem)));
        }
        Question::Detach { name, reply } => {
            let detached = match branches {
                Some(branches) => branches.detach(&name).await,
                None => Err(not_ready()),
            };
            drop(reply.send(detached.map(answer_of).map_err(problem)));
        }
        Question::LsnAt { branch, at, reply } => {
            let found = branches.ok_or_else(not_ready);
            let found = found.and_then(|branches| moment(&branches, &branch, &at));
            drop(reply.send(found.map_err(problem)));
        }
        Question::BeginScrub(reply) => {
            let is_running = follower.scrub.borrow().running;
            if !is_running {
                *follower.scrub.borrow_mut() = Scrub { running: true, ..Scrub::default() };
                executor::spawn_detached(scrub(Rc::clone(&follower)));
            }
            drop(reply.send(follower.scrub.borrow().clone()));
        }
        Question::Scrub(reply) => drop(reply.send(follower.scrub.borrow().clone())),
    }
}

fn answer_of(attached: branches::Attached) -> Attached {
    Attached { epoch: attached.epoch, end: attached.end.to_string() }
}

fn branch(branches: &Branches, timeline: &Rc<Timeline>) -> Branch {
    let stats = timeline.store.stats();
    let ancestor = timeline.ancestor.as_ref();
    Branch {
        name: timeline.name.clone(),
        from: ancestor.map(|(from, _)| from.name.clone()),
        at: ancestor.map(|(_, at)| at.to_string()),
        newest_lsn: timeline.ingested().to_string(),
        flushed_lsn: Some(timeline.durable().to_string()),
        layered_lsn: Some(timeline.flushed().to_string()),
        writer: branches.writing(&timeline.name).map(writer),
        layers: stats.layers,
        layer_bytes: stats.bytes,
    }
}

fn writer(writing: Writing) -> Writer {
    let end = Some(writing.server_end).filter(|end| end.is_valid());
    Writer {
        epoch: writing.epoch,
        server: writing.server,
        phase: writing.phase,
        error: writing.problem,
        server_lsn: end.map(|end| end.to_string()),
    }
}

fn moment(branches: &Branches, branch: &str, at: &str) -> Result<Moment, BranchError> {
    let timeline = branches.find(branch)?;
    let lsn = branches.lsn_of(&timeline, At::parse(at))?;
    let time = timeline.catalog.borrow().time_at(lsn).map(time::format);
    Ok(Moment { branch: timeline.name.clone(), lsn: lsn.to_string(), time })
}

/// Compares the checksums of all layers of all timelines.
async fn scrub(follower: Rc<Follower>) {
    let all = follower.branches().map(|branches| branches.all()).unwrap_or_default();
    let bytes_total = all.iter().map(|timeline| timeline.store.stats().bytes).sum();
    follower.scrub.borrow_mut().bytes_total = bytes_total;
    let mut before = 0;
    for timeline in all {
        let report = |progress: ScrubProgress| {
            follower.scrub.borrow_mut().bytes_done = before + progress.bytes_done;
        };
        let damaged = match timeline.store.scrub(report).await {
            Ok(damaged) => damaged,
            Err(error) => vec![error.to_string()],
        };
        follower.scrub.borrow_mut().damaged.extend(damaged);
        before += timeline.store.stats().bytes;
    }
    let mut scrub = follower.scrub.borrow_mut();
    scrub.bytes_done = bytes_total;
    scrub.running = false;
    tracing::info!(bytes = bytes_total, damaged = scrub.damaged.len(), "checksums compared");
}

fn not_ready() -> BranchError {
    let message = "there is no base backup yet".to_owned();
    BranchError::Refused(message, "howdah timeline status shows how far it is")
}

fn problem(error: BranchError) -> Problem {
    match error {
        BranchError::Refused(message, hint) => Problem { message, hint: Some(hint.to_owned()) },
        BranchError::File(error) => {
            Problem { message: error.to_string(), hint: error.hint().map(str::to_owned) }
        }
    }
}
