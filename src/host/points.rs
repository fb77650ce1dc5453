//! What a test may ask of the service: to stand still at a named point of a run, or to have a small
//! disk. Only builds with debug assertions have it; in a release build these are nothing at all.
//!
//! | variable | what it does |
//! |---|---|
//! | `NOCLAW_TEST_PAUSE=POINT:FILE` | at the point, makes the file and stands still while it is there |
//! | `NOCLAW_TEST_PAGES=FILE` | a connection that writes gets a database of at most as many pages as |
//! |  | the file says (4 KiB each), as on a full disk |

/// Stands still here if a test asked for it.
#[cfg(debug_assertions)]
pub async fn reached(point: &str) {
    let Ok(wanted) = std::env::var("NOCLAW_TEST_PAUSE") else {
        return;
    };
    if let Some((name, file)) = wanted.split_once(':')
        && name == point
    {
        std::fs::write(file, point).ok();
        while std::path::Path::new(file).exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

/// Stands still here if a test asked for it: never, in this build.
#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "the same signature as in a test build")]
pub async fn reached(_point: &str) {}

/// The most pages that the database may have, if a test asked for it.
pub fn most_pages() -> Option<u32> {
    if !cfg!(debug_assertions) {
        return None;
    }
    let file = std::env::var_os("NOCLAW_TEST_PAGES")?;
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}
