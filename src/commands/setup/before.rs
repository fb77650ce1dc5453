//! What can be known to go wrong is looked at before anything is changed. Podman is not asked: it
//! chooses how it stores when it is asked for the first time, and that is a later step.

use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::answers::prices;
use super::machine::{SERVICE, SOCKET, is, systemctl};
use super::{Args, STANDARD};
use crate::commands::serve::model::{DEMO, upstream};
use crate::commands::{Failure, doctor, read_key};
use crate::core::problem::ExitStatus;
use crate::host::{owned, paths};

/// Where a tar archive says that it is one, and what an archive may begin with that is compressed.
const TAR_AT: usize = 257;
const TAR: &[u8] = b"ustar";
const COMPRESSED: [&[u8]; 4] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh"];

/// Looks at what the flags say, as far as that is nothing of this machine's.
///
/// # Errors
/// What is to be said instead.
pub(super) fn flags(args: &Args) -> Result<(), Failure> {
    let url = args.model_api.as_deref().filter(|url| *url != DEMO);
    url.map_or(Ok(()), |url| upstream(url).map(drop))
}

/// Looks at the answers, the units, the machine.
///
/// # Errors
/// What is to be changed, and how.
pub(super) fn check(args: &Args) -> Result<(), Failure> {
    if let Some(file) = &args.image {
        image(file)?;
    }
    if let Some(file) = &args.api_key_file {
        read_key(file, None).map_err(|failure| {
            failure.hint("--api-key-file FILE: one line, in a file of yours of mode 0600")
        })?;
    }
    if let Some(model) = &args.model {
        let prices = prices()?;
        if !prices.allows(model) {
            let models = prices.models().collect::<Vec<_>>().join(", ");
            let message = format!("no price is known for the model {model:?}");
            return Err(Failure::new(ExitStatus::Usage, message)
                .hint(format!("one of {models}; or give its price in prices.json")));
        }
    }
    for (unit, hint) in [
        (SOCKET, "is the package installed, and this program of it? README.md, \"Run it\""),
        ("podman.socket", "install podman"),
    ] {
        if !systemctl(&["cat", unit])?.well {
            let message = format!("systemd knows no unit {unit}");
            return Err(Failure::new(ExitStatus::Config, message).hint(hint));
        }
    }
    another()?;
    let storage = paths::home().join(".local/share/containers/storage");
    if owned::exists(&storage.join("vfs-images")) && !owned::exists(&storage.join("overlay-images"))
    {
        let message = format!("Podman stores by vfs in {}", storage.display());
        return Err(Failure::new(ExitStatus::Config, message).hint(
            "each cell would be a copy of the image; `podman system reset` removes all that is \
             stored there, then: noclaw setup",
        ));
    }
    match doctor::beforehand() {
        None => Ok(()),
        Some((what, hint)) => Err(Failure::new(ExitStatus::Config, what).hint(hint)),
    }
}

/// A NoClaw that systemd did not start holds the socket, or the state.
fn another() -> Result<(), Failure> {
    let socket = paths::socket();
    if is("is-active", SOCKET)? || is("is-active", SERVICE)? {
        return Ok(());
    }
    if UnixStream::connect(&socket).is_err() {
        return Ok(());
    }
    let message = format!("a NoClaw that systemd has not started listens at {}", socket.display());
    Err(Failure::new(ExitStatus::Unavailable, message)
        .hint("stop it: `noclaw status` names its process"))
}

/// A file that can be read, and begins as an archive does.
fn image(file: &Path) -> Result<(), Failure> {
    let hint = "`noclaw image save FILE` writes one, on a machine that has it";
    let failed = |what: String| {
        let message = format!("the image {} {what}", file.display());
        Err(Failure::new(ExitStatus::Data, message).hint(hint))
    };
    if file == Path::new(STANDARD) {
        return Ok(());
    }
    let opened = owned::open(file).and_then(|file| Ok((file.metadata()?.file_type(), file)));
    let (kind, opened) = match opened {
        Ok(opened) => opened,
        Err(error) => return failed(format!("cannot be read: {error}")),
    };
    // What is no file can be read only once.
    if kind.is_fifo() || kind.is_block_device() {
        return Ok(());
    }
    let mut head = Vec::new();
    match opened.take(512).read_to_end(&mut head) {
        Err(error) => failed(format!("cannot be read: {error}")),
        Ok(_) if is_archive(&head) => Ok(()),
        Ok(_) => failed("is no archive of an image".to_owned()),
    }
}

fn is_archive(head: &[u8]) -> bool {
    let is_tar = head.get(TAR_AT..).is_some_and(|rest| rest.starts_with(TAR));
    is_tar || COMPRESSED.iter().any(|magic| head.starts_with(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_known_by_its_head() {
        let mut tar = vec![0; 512];
        tar.splice(TAR_AT..TAR_AT + 5, *b"ustar");
        for (head, right) in [
            (tar.as_slice(), true),
            (b"\x1f\x8b\x08", true),
            (b"\x28\xb5\x2f\xfd", true),
            (b"", false),
            (b"\x7fELF", false),
            (&tar[1..], false),
            (&tar[..300], true),
            (&tar[..260], false),
        ] {
            assert_eq!(is_archive(head), right, "{:?}", &head[..head.len().min(9)]);
        }
    }

    #[test]
    fn a_file_that_is_missing_or_no_image_is_told_before_anything_happens() {
        let directory = tempfile::tempdir().expect("a folder");
        let missing = image(&directory.path().join("none")).expect_err("there is none");
        assert!(missing.message.contains("cannot be read: "), "{missing:?}");
        let said = image(directory.path()).expect_err("a folder");
        assert!(said.message.contains("cannot be read: "), "{said:?}");
        let text = directory.path().join("text");
        owned::put(&text, "no image").expect("a file");
        let said = image(&text).expect_err("a text");
        assert!(said.message.ends_with("is no archive of an image"), "{said:?}");
    }
}
