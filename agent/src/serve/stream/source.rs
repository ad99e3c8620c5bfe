//! Where a stream's lines come from: a file, or a FIFO that is opened anew for each of its writers in turn.

use std::path::PathBuf;
use std::pin::Pin;

use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe;

use super::{StreamConfig, StreamError, StreamKind};

/// Longest line that is read.
const MAX_LINE: u64 = 256 * 1024;
const BUFFER: usize = 64 * 1024;

pub(super) struct Source {
    path: PathBuf,
    kind: StreamKind,
}

impl Source {
    pub(super) fn new(config: &StreamConfig) -> Self {
        Self {
            path: config.path.clone(),
            kind: config.kind,
        }
    }

    /// Opens the stream; a FIFO is ready when a writer has written or gone. `previous` is let go only after a FIFO has
    /// been opened anew: what a writer leaves in between would be lost with the last reader.
    pub(super) async fn open(&self, previous: Option<Lines>) -> Result<Lines, StreamError> {
        let failed = |why| StreamError::Read {
            path: self.path.clone(),
            why,
        };
        let reader: Pin<Box<dyn AsyncRead + Send>> = match self.kind {
            StreamKind::File => Box::pin(File::open(&self.path).await.map_err(failed)?),
            StreamKind::Fifo => {
                let fifo = self.open_fifo().map_err(failed)?;
                drop(previous);
                // Linux: a FIFO opened while it has no writer is neither readable nor hung up until one comes.
                fifo.readable().await.map_err(failed)?;
                Box::pin(fifo)
            }
        };
        Ok(Lines {
            reader: BufReader::with_capacity(BUFFER, reader),
            path: self.path.clone(),
            line: Vec::new(),
            position: Position::Line,
            told: false,
        })
    }

    fn open_fifo(&self) -> std::io::Result<pipe::Receiver> {
        match pipe::OpenOptions::new().open_receiver(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mode = rustix::fs::Mode::from_raw_mode(0o660);
                rustix::fs::mknodat(rustix::fs::CWD, &self.path, rustix::fs::FileType::Fifo, mode, 0)?;
                pipe::OpenOptions::new().open_receiver(&self.path)
            }
            opened => opened,
        }
    }
}

/// The lines of one opened stream.
pub(super) struct Lines {
    reader: BufReader<Pin<Box<dyn AsyncRead + Send>>>,
    path: PathBuf,
    /// What has been read of the next line: kept here, so that a read given up half-way loses nothing.
    line: Vec<u8>,
    position: Position,
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Line,
    /// The rest of a line that was too long is still to be passed over.
    LongLine,
    /// What comes after the end is the next writer's, and belongs to who opens the stream for it.
    End,
}

impl Lines {
    /// The next line without its end, empty lines left out; `None` at the end of the stream. After a line that is too long
    /// the next call goes on behind it. May be cancelled.
    pub(super) async fn next(&mut self) -> Result<Option<String>, StreamError> {
        loop {
            if self.position == Position::End {
                return Ok(None);
            }
            let room = MAX_LINE.saturating_sub(self.line.len() as u64);
            (&mut self.reader)
                .take(room)
                .read_until(b'\n', &mut self.line)
                .await
                .map_err(|why| StreamError::Read {
                    path: self.path.clone(),
                    why,
                })?;
            let line = std::mem::take(&mut self.line);
            let then = if line.last() == Some(&b'\n') {
                Position::Line
            } else if line.len() as u64 >= MAX_LINE {
                Position::LongLine
            } else {
                Position::End
            };
            if std::mem::replace(&mut self.position, then) == Position::LongLine {
                continue;
            }
            if then == Position::LongLine {
                return Err(StreamError::LongLine {
                    path: self.path.clone(),
                    limit: MAX_LINE,
                });
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\n', '\r']);
            if !text.trim().is_empty() {
                return Ok(Some(text.to_owned()));
            }
        }
    }

    /// Can a line be had without waiting?
    pub(super) fn has_line(&self) -> bool {
        self.position == Position::Line && self.reader.buffer().contains(&b'\n')
    }

    /// `true` once: for what is said of a stream once, however often it happens.
    pub(super) fn is_to_tell(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }
}
