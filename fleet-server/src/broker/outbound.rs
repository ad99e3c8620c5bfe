//! Tells devices what changed for them: desired states when targets change or grow old, the `Head` when it is signed anew.
//!
//! A device that is not connected is told when it says hello.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::codec::{self, CodecError};
use flotilla_protocol::messages::{HeadMessage, SCHEMA};
use flotilla_protocol::topics::{Down, Topic};
use metrics::counter;
use serde_bytes::ByteBuf;

use crate::app::{App, Change};
use crate::broker::client::Publisher;
use crate::clock;
use crate::director::{DESIRED_HALF_LIFE_MS, Director, DirectorError};
use crate::store::{StoreError, devices, documents};
use crate::tasks::Shutdown;

/// News apart, ageing desired states are looked for this often.
const TICK: Duration = Duration::from_mins(1);
const PAGE: u32 = 256;

#[derive(Debug, thiserror::Error)]
enum OutboundError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Director(#[from] DirectorError),
    #[error("{0}")]
    Codec(#[from] CodecError),
}

/// See the module's documentation.
pub(super) struct Outbound {
    pub(super) app: App,
    pub(super) director: Arc<Director>,
    pub(super) publisher: Publisher,
}

impl Outbound {
    pub(super) async fn run(self, mut shutdown: Shutdown) {
        let mut news = self.app.changes.listen();
        let mut told_head = 0;
        loop {
            if let Err(error) = self.tell(&mut told_head).await {
                tracing::error!(%error, "devices cannot be told what changed; trying again");
            }
            tokio::select! {
                () = shutdown.wait() => return,
                alive = news.wait_for(|change| matches!(change, Change::Targets | Change::Head)) => if !alive { return },
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    async fn tell(&self, told_head: &mut u64) -> Result<(), OutboundError> {
        self.tell_head(told_head).await?;
        let mut tx = self.app.db.begin().await?;
        devices::mark_expiring_stale(&mut tx, clock::now_ms().saturating_add(DESIRED_HALF_LIFE_MS)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        let mut after = String::new();
        loop {
            let (page, last) = self.director.stale_desired_states(&self.app, &after, PAGE).await?;
            for (device, envelope) in page {
                counter!("flotilla_desired_states_sent_total").increment(1);
                self.publisher
                    .publish(&Topic::Down(device, Down::Desired), true, envelope)
                    .await;
            }
            match last {
                Some(last) => after = last.to_string(),
                None => return Ok(()),
            }
        }
    }

    /// Connected devices have the present root, or learn of a newer one when they say hello.
    async fn tell_head(&self, told: &mut u64) -> Result<(), OutboundError> {
        let (version, head) = match documents::latest(&self.app.db, documents::HEAD).await {
            Ok(latest) => latest,
            Err(StoreError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if version == *told {
            return Ok(());
        }
        let message = HeadMessage {
            schema: SCHEMA,
            roots: Vec::new(),
            head: ByteBuf::from(head),
        };
        self.publisher
            .publish(&Topic::Head, true, codec::to_vec(&message)?)
            .await;
        *told = version;
        Ok(())
    }
}
