//! The file: who may read it, what is refused unread or unwritten, which pragmas hold.

#![expect(clippy::disallowed_methods, reason = "a test looks at the store's own files")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sea_orm::{ConnectionTrait, Database};

use super::*;

fn mode(path: &Path) -> std::io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o777)
}

async fn refusal(path: &Path) -> Result<Error, Box<dyn StdError>> {
    let before = fs::read(path)?;
    let opened = Store::open(StoreOptions { path: path.to_owned(), max_pages: || None });
    let error = opened.await.err().ok_or("it was opened")?;
    assert_eq!(fs::read(path)?, before, "the file was changed");
    Ok(error)
}

#[tokio::test]
async fn the_database_is_the_owners_alone() -> Checked {
    let home = Home::new().await?;
    home.say(1, "ann", "main", "secret").await?;
    for entry in fs::read_dir(home.dir.path())? {
        let path = entry?.path();
        assert_eq!(mode(&path)?, 0o600, "{}", path.display());
    }
    let path = home.options.path.clone();
    home.store.close().await;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    let store = Store::open(home.options.clone()).await?;
    assert_eq!(mode(&path)?, 0o600, "what was open to others is closed to them");
    assert!(store.run(id(1)).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn the_pragmas_that_promises_rest_on_hold() -> Checked {
    let home = Home::new().await?;
    for (pragma, expected) in [
        ("PRAGMA journal_mode", "wal"),
        ("PRAGMA synchronous", "2"),
        ("PRAGMA foreign_keys", "1"),
        ("PRAGMA busy_timeout", "5000"),
        ("PRAGMA temp_store", "2"),
    ] {
        let found = home.store.writer.carry_out(Ask(pragma)).await?;
        assert_eq!(found, expected, "{pragma}");
    }
    let write = home.store.readers.execute_unprepared("DELETE FROM runs").await;
    assert!(write.is_err(), "readers cannot write");
    Ok(())
}

#[tokio::test]
async fn a_page_that_does_not_fit_is_found_wherever_it_is() -> Checked {
    let home = Home::new().await?;
    home.say(1, "ann", "main", "hi").await?;
    home.store.close().await;
    let path = home.options.path.clone();
    let whole = fs::read(&path)?;
    for page in 1..whole.len() / 4096 {
        let mut garbled = whole.clone();
        garbled.iter_mut().skip(page * 4096).take(4096).for_each(|byte| *byte = 0xa5);
        fs::write(&path, garbled)?;
        let error = refusal(&path).await.map_err(|error| format!("page {page}: {error}"))?;
        assert!(matches!(error, Error::Damaged { .. }), "page {page}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_untouched() -> Checked {
    let home = Home::new().await?;
    home.say(1, "ann", "main", "hi").await?;
    home.store.close().await;
    let path = home.options.path.clone();
    let newer = Database::connect(format!("sqlite:{}", path.display())).await?;
    let migration = "INSERT INTO seaql_migrations VALUES ('m9999_better', 0)";
    newer.execute_unprepared(migration).await?;
    newer.close().await?;
    let error = refusal(&path).await?;
    assert!(matches!(&error, Error::Newer { migration, .. } if migration == "m9999_better"));
    Ok(())
}

#[tokio::test]
async fn what_is_no_database_of_ours_is_refused_untouched() -> Checked {
    let dir = tempfile::tempdir()?;
    for (name, bytes) in [
        ("text", b"Dear diary, today I learned about file formats.".to_vec()),
        ("short", b"SQLite".to_vec()),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes)?;
        assert!(matches!(refusal(&path).await?, Error::NotOurs { .. }), "{name}");
    }
    let path = dir.path().join("header");
    let mut bytes = b"SQLite format 3\0".to_vec();
    bytes.resize(8192, 0xaa);
    fs::write(&path, bytes)?;
    assert!(matches!(refusal(&path).await?, Error::Damaged { .. }));

    let path = dir.path().join("other");
    let other = Database::connect(format!("sqlite:{}?mode=rwc", path.display())).await?;
    other.execute_unprepared("CREATE TABLE bookmarks (url TEXT)").await?;
    other.close().await?;
    assert!(matches!(refusal(&path).await?, Error::NotOurs { .. }));

    let error = Store::open(StoreOptions {
        path: dir.path().join("no/such/directory"),
        max_pages: || None,
    });
    assert!(matches!(error.await.err(), Some(Error::File { .. })));
    let error = Store::open(StoreOptions { path: dir.path().to_owned(), max_pages: || None });
    assert!(matches!(error.await.err(), Some(Error::NotOurs { .. })));
    Ok(())
}

#[tokio::test]
async fn an_empty_file_and_a_tableless_database_are_begun_anew() -> Checked {
    let dir = tempfile::tempdir()?;
    let empty = dir.path().join("empty");
    fs::write(&empty, b"")?;
    let tableless = dir.path().join("with ? and % in its name");
    let begun = Store::open(StoreOptions { path: tableless.clone(), max_pages: || None });
    begun.await?.close().await;
    for path in [empty, tableless] {
        for _ in 0..2 {
            let options = StoreOptions { path: path.clone(), max_pages: || None };
            let store = Store::open(options).await?;
            store.ensure_user(&"ann".parse()?, NOW).await?;
            store.ensure_user(&"ann".parse()?, NOW + 1).await?;
            assert_eq!(store.users().await?.len(), 1);
            store.close().await;
        }
    }
    Ok(())
}
