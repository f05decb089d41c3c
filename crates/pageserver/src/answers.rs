//! Answers to what the API asks.

use std::rc::Rc;

use pg::lsn::Lsn;
use pg::wire::replication::POSTGRES_EPOCH_UNIX_MICROS;
use runtime::{clock, executor};

use crate::api::{Attached, Branch, Lease, Moment, Problem, Question, Scrub, Writer};
use crate::branches::{self, At, BranchError, Branches, Writing};
use crate::follower::Follower;
use crate::leases;
use crate::scrub;
use crate::time;
use crate::timeline::Timeline;

/// Answers one question. Who asked may have gone away meanwhile.
pub(crate) async fn answer(follower: Rc<Follower>, question: Question) {
    let branches = follower.branches();
    let whole = || follower.whole_branches().ok_or_else(not_whole);
    match question {
        Question::Status(reply) => drop(reply.send(follower.status())),
        Question::Branches(reply) => {
            let all = follower.whole_branches().map(|branches| {
                branches.all().iter().map(|timeline| branch(&branches, timeline)).collect()
            });
            drop(reply.send(all));
        }
        Question::CreateBranch { name, from, at, reply } => {
            let made = match &branches {
                Some(branches) => {
                    let made = branches.create(&name, &from, At::parse(&at)).await;
                    made.map(|(timeline, present)| Branch {
                        note: present.note(),
                        ..branch(branches, &timeline)
                    })
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
            let attached = match whole() {
                Ok(branches) => branches.attach(&name, wanted).await,
                Err(error) => Err(error),
            };
            drop(reply.send(attached.map(answer_of).map_err(problem)));
        }
        Question::Detach { name, reply } => {
            let detached = match whole() {
                Ok(branches) => branches.detach(&name).await,
                Err(error) => Err(error),
            };
            drop(reply.send(detached.map(answer_of).map_err(problem)));
        }
        Question::ReleaseMain(reply) => {
            let released = match whole() {
                Ok(branches) => branches.release_main().await,
                Err(error) => Err(error),
            };
            drop(reply.send(released.map(answer_of).map_err(problem)));
        }
        Question::LsnAt { branch, at, reply } => {
            let found = match branches {
                Some(branches) => moment(&branches, &branch, &at).await,
                None => Err(not_ready()),
            };
            drop(reply.send(found.map_err(problem)));
        }
        Question::Leases { branch, reply } => {
            let found = branches.ok_or_else(not_ready).and_then(|all| all.find(&branch));
            let leases = |timeline: Rc<Timeline>| {
                timeline.leases.list().iter().map(|lease| told(&timeline, lease)).collect()
            };
            drop(reply.send(found.map(leases).map_err(problem)));
        }
        Question::Lease { branch, lsn, holder, seconds, reply } => {
            let seconds = i64::from(seconds);
            let until = clock::wall_micros().saturating_add(seconds * 1_000_000);
            let made = async {
                let timeline = branches.ok_or_else(not_ready)?.find(&branch)?;
                let lease = timeline.lease(position(&lsn)?, &holder, until).await?;
                Ok(told(&timeline, &lease))
            };
            drop(reply.send(made.await.map_err(problem)));
        }
        Question::EndLease { branch, lsn, holder, reply } => {
            let ended = async {
                let timeline = branches.ok_or_else(not_ready)?.find(&branch)?;
                timeline.end_lease(position(&lsn)?, &holder).await
            };
            drop(reply.send(ended.await.map_err(problem)));
        }
        Question::Measure { page_seconds, reply } => {
            *follower.page_seconds.borrow_mut() = Some(page_seconds.local());
            drop(reply.send(()));
        }
        Question::BeginScrub(reply) => {
            let is_running = follower.scrub.borrow().running;
            if !is_running {
                *follower.scrub.borrow_mut() = Scrub { running: true, ..Scrub::default() };
                executor::spawn_detached(scrub::run(Rc::clone(&follower)));
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
        note: None,
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

async fn moment(branches: &Branches, branch: &str, at: &str) -> Result<Moment, BranchError> {
    let timeline = branches.find(branch)?;
    let (lsn, present) = branches.lsn_of(&timeline, At::parse(at)).await?;
    let time = timeline.catalog.borrow().time_at(lsn).map(time::format);
    Ok(Moment { branch: timeline.name.clone(), lsn: lsn.to_string(), time, note: present.note() })
}

fn told(timeline: &Timeline, lease: &leases::Lease) -> Lease {
    Lease {
        branch: timeline.name.clone(),
        lsn: lease.lsn.to_string(),
        holder: lease.holder.clone(),
        until: time::format(lease.until - POSTGRES_EPOCH_UNIX_MICROS),
    }
}

fn position(text: &str) -> Result<Lsn, BranchError> {
    text.parse().map_err(|_invalid| {
        BranchError::Refused(format!("\"{text}\" is not an LSN"), "give one such as 0/16B3748")
    })
}

fn not_ready() -> BranchError {
    let message = "there is no base backup yet".to_owned();
    BranchError::Refused(message, "howdah timeline status shows how far it is")
}

fn not_whole() -> BranchError {
    let message = "what was received before is not taken in yet".to_owned();
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
