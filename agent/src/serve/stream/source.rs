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
}

impl Lines {
    /// The next line without its end, empty lines left out; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<String>, StreamError> {
        loop {
            let mut line = Vec::new();
            (&mut self.reader)
                .take(MAX_LINE)
                .read_until(b'\n', &mut line)
                .await
                .map_err(|why| StreamError::Read {
                    path: self.path.clone(),
                    why,
                })?;
            if line.is_empty() {
                return Ok(None);
            }
            if line.last() != Some(&b'\n') && line.len() as u64 >= MAX_LINE {
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
        self.reader.buffer().contains(&b'\n')
    }
}
