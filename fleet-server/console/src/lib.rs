//! The files of the web console, embedded when this crate is compiled. Serving them (headers, conditional requests, the
//! policy) is the fleet server's part; nothing here knows HTTP beyond names of content types.

/// One file of the console.
#[derive(Clone, Copy)]
pub struct Asset {
    /// As a browser asks for it: `/assets/index-4f2a.js`, `/index.html`.
    pub path: &'static str,
    pub bytes: &'static [u8],
    /// The same bytes compressed, where that is smaller.
    pub brotli: Option<&'static [u8]>,
    pub gzip: Option<&'static [u8]>,
    pub content_type: &'static str,
    /// The name carries a hash of the content: caches may keep it for ever. All else has to be asked for again.
    pub immutable: bool,
}

impl std::fmt::Debug for Asset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asset")
            .field("path", &self.path)
            .field("len", &self.bytes.len())
            .field("content_type", &self.content_type)
            .field("immutable", &self.immutable)
            .finish_non_exhaustive()
    }
}

/// In order of path.
static ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The file of exactly this path. The paths of screens (`/devices/edge-1`) are none: they get [`index`].
pub fn find(path: &str) -> Option<&'static Asset> {
    let at = ASSETS.binary_search_by(|asset| asset.path.cmp(path)).ok()?;
    ASSETS.get(at)
}

/// The page that every screen's address answers with.
pub fn index() -> Option<&'static Asset> {
    find("/index.html")
}

/// All files, in order of path.
pub fn all() -> &'static [Asset] {
    ASSETS
}

#[cfg(test)]
mod tests {
    use super::{all, find, index};

    #[test]
    fn the_page_is_there_and_is_not_kept_by_caches() {
        let page = index().expect("index.html");
        assert!(page.bytes.starts_with(b"<!doctype html>"));
        assert_eq!(page.content_type, "text/html; charset=utf-8");
        assert!(!page.immutable);
    }

    #[test]
    fn every_file_is_found_by_its_path_and_nothing_else_is() {
        for asset in all() {
            assert_eq!(find(asset.path).map(|found| found.path), Some(asset.path));
            assert!(!asset.bytes.is_empty(), "{}", asset.path);
        }
        for path in [
            "",
            "/",
            "/devices",
            "/../Cargo.toml",
            "/index.html.br",
            "/.vite/manifest.json",
        ] {
            assert!(find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn the_page_carries_no_inline_script_or_style() {
        let page = String::from_utf8_lossy(index().expect("index.html").bytes).to_lowercase();
        assert!(!page.contains("<style"));
        assert!(!page.contains(" style="));
        for script in page.split("<script").skip(1) {
            let tag = script.split('>').next().unwrap_or_default();
            assert!(tag.contains("src="), "<script{tag}>");
        }
    }

    #[test]
    fn compressed_forms_are_smaller() {
        for asset in all() {
            for packed in [asset.brotli, asset.gzip].into_iter().flatten() {
                assert!(packed.len() < asset.bytes.len(), "{}", asset.path);
            }
        }
    }
}
