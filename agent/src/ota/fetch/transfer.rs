//! One job's transfer: which pieces of a package are here, which are asked for, and how they come in.
//!
//! Decides nothing about trying again; what is received is believed only once it is checked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::chunks::{BlobRef, CHUNK_BYTES, ChunkList};
use flotilla_protocol::codec;
use flotilla_protocol::desired_state::Source;
use flotilla_protocol::manifest::Component;
use flotilla_protocol::messages::{ChunkMessage, SCHEMA, Want};
use flotilla_protocol::topics::Up;
use serde_bytes::ByteBuf;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::files;
use crate::ota::fetch::decode::{copy_exactly, decode};
use crate::ota::fetch::part::{self, Checker, Part};
use crate::ota::fetch::window::{Pacer, Window};
use crate::ota::fetch::{Facts, FetchError, Fetcher, MAX_BAD_CHUNKS, Progress};
use crate::ota::slots;
use crate::ota::state::Order;
use crate::random;
use crate::store::on_disk;
use crate::trust_state::NotAccepted;

/// One job's fetch: what its steps share.
pub(super) struct Transfer<'a> {
    pub(super) fetcher: &'a Fetcher,
    pub(super) order: &'a Order,
    pub(super) pacer: Pacer,
    pub(super) progress: Progress,
    pub(super) began: Instant,
}

impl Transfer<'_> {
    pub(super) async fn package(&mut self, staging: &Path, facts: Facts<'_>) -> Result<(), FetchError> {
        let target = &self.order.target;
        self.fetcher.news().await?;
        let envelope = self.envelope(staging).await?;
        let able = facts();
        let accepted = self.fetcher.trust.accept_manifest(&envelope, target, &able);
        let manifest = match accepted {
            Ok(manifest) => manifest.into_inner(),
            Err(why @ NotAccepted::Stale { .. }) => return Err(why.into()),
            Err(why) => {
                // What is refused does not stay, or a corrected one would never be fetched.
                files::remove_if_there(&staging.join(slots::MANIFEST_FILE))?;
                return Err(why.into());
            }
        };
        if let Some(shortage) = on_disk(|| self.fetcher.shortage(&manifest, target, able))? {
            return Err(FetchError::Short(shortage));
        }
        let mut wanted = Vec::new();
        for component in &manifest.components {
            let first = self.sources(component).first();
            // The director's numbers: nothing rests on them.
            let bytes = first.map_or(0, |source| {
                let list = source.chunk_list.map_or(0, |list| list.length);
                source.blob.length.saturating_add(list)
            });
            let path = staging.join(component.kind.file_name());
            if on_disk(|| slots::has_content(&path, &component.blob))? {
                // Staged before a restart: it was received for this job.
                self.progress.expect(bytes);
                self.progress.add(bytes);
            } else if let Some(found) = on_disk(|| self.fetcher.dirs.find(&component.blob))? {
                debug!(from = %found.display(), kind = ?component.kind, "not fetched: it is on the device");
                on_disk(|| copy_exactly(&found, &path, &component.blob))?;
            } else {
                self.progress.expect(bytes);
                wanted.push(component);
            }
        }
        for component in wanted {
            self.component(component, &staging.join(component.kind.file_name()))
                .await?;
        }
        Ok(())
    }

    async fn envelope(&mut self, staging: &Path) -> Result<Vec<u8>, FetchError> {
        let blob = self.order.target.manifest_envelope;
        let path = staging.join(slots::MANIFEST_FILE);
        if on_disk(|| slots::has_content(&path, &blob))? {
            self.progress.expect(blob.length);
            self.progress.add(blob.length);
        } else if let Some(found) = on_disk(|| self.fetcher.dirs.find(&blob))? {
            on_disk(|| copy_exactly(&found, &path, &blob))?;
        } else {
            self.progress.expect(blob.length);
            let bytes = self.small_blob(&blob, slots::MAX_ENVELOPE_BYTES).await?;
            on_disk(|| slots::write_envelope(staging, &bytes))?;
        }
        Ok(slots::read_envelope(staging)?)
    }

    fn sources(&self, component: &Component) -> &[Source] {
        let all = &self.order.target.components;
        let found = all.iter().find(|sources| sources.component == component.blob.sha256);
        found.map_or(&[], |found| found.sources.as_slice())
    }

    /// Tries a component's sources in their order, until one gives the signed plaintext.
    async fn component(&mut self, component: &Component, path: &Path) -> Result<(), FetchError> {
        let sources = self.sources(component).to_vec();
        let mut last = FetchError::NoSource(component.blob.sha256);
        for source in &sources {
            match self.try_source(component, source, path).await {
                Ok(()) => return Ok(()),
                Err(why @ (FetchError::DiskFull(_) | FetchError::Ending)) => return Err(why),
                Err(why) => {
                    warn!(%why, encoding = ?source.encoding, kind = ?component.kind, "a source is given up");
                    // A source that may work later outweighs one that never will.
                    if !last.is_worth_retrying() {
                        last = why;
                    }
                }
            }
        }
        Err(last)
    }

    async fn try_source(&mut self, component: &Component, source: &Source, path: &Path) -> Result<(), FetchError> {
        let (blob, cap) = (source.blob, source_cap(component.blob.length));
        if blob.length > cap {
            return Err(FetchError::TooLong {
                blob: blob.sha256,
                length: blob.length,
                cap,
            });
        }
        let list = match &source.chunk_list {
            // What cannot be checked on arrival would take any disk and any time before it is found to be wrong.
            None if blob.length > u64::from(CHUNK_BYTES) => {
                return Err(FetchError::NoChunkList {
                    blob: blob.sha256,
                    length: blob.length,
                });
            }
            None => None,
            Some(list) => {
                let bytes = self.small_blob(list, list_cap(&source.blob)?).await?;
                Some(ChunkList::decode(&bytes, &source.blob)?)
            }
        };
        let part = self.blob(&source.blob, list).await?;
        let decoded = on_disk(|| decode(part.path(), source.encoding, &component.blob, path));
        drop(part);
        if let Err(FetchError::Undecodable { why, .. }) = &decoded {
            self.fetcher
                .trust
                .altered_content("component source", why, source.blob.sha256);
        }
        if matches!(decoded, Ok(()) | Err(FetchError::Undecodable { .. })) {
            self.forget(&source.blob)?;
            if let Some(list) = &source.chunk_list {
                self.forget(list)?;
            }
        }
        decoded
    }

    fn forget(&self, blob: &BlobRef) -> Result<(), FetchError> {
        Ok(on_disk(|| {
            part::remove(&self.fetcher.store, self.fetcher.dirs.parts(), blob)
        })?)
    }

    /// A blob that is read whole: a manifest's envelope, a chunk list. Its length is the director's word, so it has a cap.
    async fn small_blob(&mut self, blob: &BlobRef, cap: u64) -> Result<Vec<u8>, FetchError> {
        if blob.length > cap {
            return Err(FetchError::TooLong {
                blob: blob.sha256,
                length: blob.length,
                cap,
            });
        }
        let part = self.blob(blob, None).await?;
        let bytes = on_disk(|| files::read_capped(part.path(), blob.length))?.unwrap_or_default();
        Ok(bytes)
    }

    /// Receives a blob whole and verified into its part file.
    async fn blob(&mut self, blob: &BlobRef, list: Option<ChunkList>) -> Result<Part, FetchError> {
        let checker = Checker::new(blob, list);
        let fetcher = self.fetcher;
        let store = Arc::clone(&fetcher.store);
        let mut part = on_disk(|| Part::open(store, fetcher.dirs.parts(), blob, &checker))?;
        self.progress.add(part.bytes());
        if !part.have().is_complete() {
            self.receive(blob, &checker, &mut part).await?;
        }
        if on_disk(|| part.is_intact())? {
            return Ok(part);
        }
        let rotten = on_disk(|| part.has_rotten(&checker))?;
        drop(part);
        self.forget(blob)?;
        let trust = &self.fetcher.trust;
        if rotten {
            trust.damaged_content("received blob", blob.sha256);
            return Err(FetchError::Torn(blob.sha256));
        }
        let detail = "every piece of it was as announced, the whole is not what was signed";
        trust.altered_content("blob", detail, blob.sha256);
        Err(FetchError::Altered(blob.sha256))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn receive(&mut self, blob: &BlobRef, checker: &Checker, part: &mut Part) -> Result<(), FetchError> {
        let mut messages = self.fetcher.chunks.subscribe(blob.sha256);
        let mut connection = self.fetcher.link.connection();
        let mut window = Window::new(self.fetcher.window);
        let mut bad: BTreeMap<u32, u32> = BTreeMap::new();
        while !part.have().is_complete() {
            let connected = *connection.borrow_and_update();
            if connected {
                self.want(blob, part, &mut window);
            } else {
                window.reset();
            }
            let wake = window.next_timeout().unwrap_or(u64::MAX).min(self.pause());
            let wake = self.began + Duration::from_millis(wake.min(self.now().saturating_add(60_000)));
            tokio::select! {
                changed = connection.changed() => changed.map_err(|_closed| FetchError::Ending)?,
                message = messages.recv() => {
                    let Some(message) = message else { return Err(FetchError::Ending) };
                    self.take(&message, checker, part, &mut window, &mut bad)?;
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        Ok(())
    }

    /// When the pace lets more be asked for, if it is what holds us up.
    fn pause(&self) -> u64 {
        if self.pacer.allowance(self.now()) == 0 {
            self.pacer.next_allowed()
        } else {
            u64::MAX
        }
    }

    fn want(&mut self, blob: &BlobRef, part: &Part, window: &mut Window) {
        let now = self.now();
        let allowance = self.pacer.allowance(now);
        let Some(ask) = window.ask(part.have(), now, allowance, random::jitter(1000)) else {
            return;
        };
        let want = Want {
            schema: SCHEMA,
            blob: *blob,
            first: ask.first,
            present: ByteBuf::from(ask.present),
            credit: ask.credit,
        };
        match codec::to_vec(&want) {
            Ok(bytes) => {
                if self.fetcher.link.publish(Up::Want, bytes, true) {
                    self.pacer.spend(ask.credit, now);
                }
            }
            Err(why) => warn!(%why, "a want cannot be encoded"),
        }
    }

    fn take(
        &mut self,
        message: &ChunkMessage,
        checker: &Checker,
        part: &mut Part,
        window: &mut Window,
        bad: &mut BTreeMap<u32, u32>,
    ) -> Result<(), FetchError> {
        if message.missing {
            return Err(FetchError::Missing(message.blob));
        }
        let now = self.now();
        for (index, chunk) in (message.first..).zip(&message.chunks) {
            window.arrived(index, now);
            match checker.check(index, chunk) {
                Ok(()) => {
                    if on_disk(|| part.write(index, chunk))? {
                        self.progress.add(chunk.len() as u64);
                    }
                }
                Err(why) => {
                    let trust = &self.fetcher.trust;
                    trust.altered_content("chunk", &why.to_string(), message.blob);
                    let times = bad.entry(index).or_insert(0);
                    *times += 1;
                    if *times >= MAX_BAD_CHUNKS || bad.len() > 1000 {
                        return Err(FetchError::BadChunks {
                            blob: message.blob,
                            index,
                            why,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Longest source of a component: nobody encodes it into much more than it is, and the disk was asked for as much.
const fn source_cap(component_bytes: u64) -> u64 {
    component_bytes
        .saturating_add(component_bytes / 128)
        .saturating_add(1024)
}

/// Longest chunk list of a blob: a digest per chunk, and a little around them.
fn list_cap(blob: &BlobRef) -> Result<u64, FetchError> {
    Ok(u64::from(blob.chunk_count()?).saturating_mul(32).saturating_add(256))
}

#[cfg(test)]
mod tests;
