//! How long we wait for a store, and how often we ask again.

use std::time::Duration;

use runtime::clock::{self, Instant};
use runtime::mailbox::Pending;
use runtime::random::Rng;

use super::error::{BucketError, Failure};
use crate::limits::{ATTEMPT_PAUSE_MAX, ATTEMPT_PAUSE_MIN, REQUEST_TIME_MAX, REQUESTS_TIME_MAX};

/// Time limits of requests to the store.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Of one attempt.
    pub attempt: Duration,
    /// Of all attempts of one request; the one under way at its end may finish.
    pub request: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { attempt: REQUEST_TIME_MAX, request: REQUESTS_TIME_MAX }
    }
}

impl Patience {
    /// Asks until there is an answer that another attempt would not change, or the time is over.
    pub(super) async fn persist<T: Send>(
        &self,
        operation: &'static str,
        name: &str,
        mut ask: impl FnMut() -> Pending<object_store::Result<T>>,
    ) -> Result<T, BucketError> {
        let mut attempts = self.attempts();
        loop {
            match self.once(ask()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => attempts.again(operation, name, failure).await?,
            }
        }
    }

    /// One attempt.
    pub(super) async fn once<T: Send>(
        &self,
        asked: Pending<object_store::Result<T>>,
    ) -> Result<T, Failure> {
        match clock::timeout(self.attempt, asked).await {
            Ok(Ok(answer)) => answer.map_err(Failure::Store),
            Ok(Err(_dropped)) => Err(Failure::Silence),
            Err(_elapsed) => Err(Failure::Silence),
        }
    }

    pub(super) fn attempts(&self) -> Attempts {
        Attempts {
            until: clock::now() + self.request,
            pause: ATTEMPT_PAUSE_MIN,
            random: Rng::from_os(),
        }
    }
}

/// The attempts of one request.
pub(super) struct Attempts {
    until: Instant,
    pause: Duration,
    random: Rng,
}

impl Attempts {
    /// Waits for the next attempt after `failure`, or answers why there is none. Pauses double and are spread, so that
    /// many clients of a store that comes back do not ask in one moment.
    pub(super) async fn again(
        &mut self,
        operation: &'static str,
        name: &str,
        failure: Failure,
    ) -> Result<(), BucketError> {
        let spread = u64::try_from(self.pause.as_micros()).unwrap_or(u64::MAX);
        let pause = self.pause / 2 + Duration::from_micros(self.random.below(spread.max(1)) / 2);
        if !failure.is_transient() || clock::now() + pause >= self.until {
            return Err(BucketError::new(operation, name, failure.fault()));
        }
        tracing::debug!(operation, name, fault = %failure.fault(), "asking the object store again");
        clock::sleep(pause).await;
        self.pause = (self.pause * 2).min(ATTEMPT_PAUSE_MAX);
        Ok(())
    }
}
