//! `sudo noclaw setup --user NAME`: root gives the user a service manager, and becomes the user.
//! Root's rights end before anything of the user's is opened.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::machine::asked;
use super::{Args, STANDARD, program};
use crate::commands::{Ended, Failure};
use crate::core::problem::ExitStatus;
use crate::host::owned;

/// Becomes this user, with the same answers.
pub(super) fn become_user(name: &str, args: &Args) -> Ended {
    let failed = |message: String, hint: &str| Failure::new(ExitStatus::Config, message).hint(hint);
    let user = nix::unistd::User::from_name(name).ok().flatten();
    let user = user.ok_or_else(|| failed(format!("there is no user {name}"), "adduser NAME"))?;
    if user.uid.is_root() {
        return Err(failed("noclaw is never set up for root".to_owned(), "name another user"));
    }
    if !owned::exists(&user.dir) {
        let message = format!("{name} has no home: {} is missing", user.dir.display());
        return Err(failed(message, "mkhomedir_helper NAME, or name another user"));
    }
    if let Some(file) = &args.api_key_file
        && owned::owner(file).is_ok_and(|owner| owner != user.uid.as_raw())
    {
        let (file, home) = (file.display(), user.dir.display());
        let message = format!("the key's file {file} is not {name}'s");
        let copy = format!("install -m 600 -o {name} {file} {home}/key");
        return Err(failed(message, &format!("{copy}; then: --api-key-file {home}/key")));
    }
    let mut args = args.clone();
    let stdin = hand_over(&mut args)?;
    let runtime = PathBuf::from(format!("/run/user/{}", user.uid));
    if !args.undo {
        asked("loginctl", &["enable-linger", name])?;
        // It has started once it can be spoken to.
        asked("systemctl", &["start", &format!("user@{}.service", user.uid)])?;
    }
    if !owned::exists(&runtime) {
        let message = format!("{name} has no service manager: {} is missing", runtime.display());
        return Err(failed(message, "install libpam-systemd (or systemd-pam), and try again"));
    }
    let mut command = Command::new("setpriv");
    let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
    command.args(["--reuid", &uid, "--regid", &gid, "--init-groups", "env", "-i"]);
    for (variable, value) in [
        ("HOME", user.dir.as_path()),
        ("USER", Path::new(name)),
        ("LOGNAME", Path::new(name)),
        ("XDG_RUNTIME_DIR", &runtime),
        ("DBUS_SESSION_BUS_ADDRESS", Path::new(&format!("unix:path={}/bus", runtime.display()))),
        ("PATH", Path::new("/usr/local/bin:/usr/bin:/bin")),
    ] {
        command.arg(format!("{variable}={}", value.display()));
    }
    if let Some(file) = stdin {
        command.stdin(Stdio::from(file));
    }
    let command = command.arg(program()?).args(words(&args)).current_dir(&user.dir);
    let error = command.exec();
    Err(failed(format!("setpriv cannot be started: {error}"), "install util-linux"))
}

/// Paths stay what they are where the user begins. An image that root alone may read is opened
/// here, and read by the user as standard input; who is asked questions has the answers there.
fn hand_over(args: &mut Args) -> Result<Option<std::fs::File>, Failure> {
    let whole = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    args.api_key_file = args.api_key_file.as_ref().map(whole);
    let is_file = |path: &&PathBuf| path.as_path() != Path::new(STANDARD);
    let Some(image) = args.image.clone().as_ref().filter(is_file).map(whole) else {
        return Ok(None);
    };
    args.image = Some(image.clone());
    if !args.yes {
        return Ok(None);
    }
    let file = owned::open(&image).map_err(|error| {
        let message = format!("the image {} cannot be read: {error}", image.display());
        Failure::new(ExitStatus::Data, message).hint("`noclaw image save FILE` writes one")
    })?;
    args.image = Some(STANDARD.into());
    Ok(Some(file))
}

/// The command line that has these answers, but for `--user`.
fn words(args: &Args) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["setup".into()];
    let flags = [("--yes", args.yes), ("--demo", args.demo), ("--undo", args.undo)];
    words.extend(flags.iter().filter(|(_, said)| *said).map(|(flag, _)| flag.into()));
    let list = args.accept_without.as_ref().map(|list| list.join(","));
    let zone = args.zone.as_ref().map(|zone| zone.name().to_owned());
    let values = [
        ("--api-key-file=", args.api_key_file.clone().map(OsString::from)),
        ("--model-api=", args.model_api.clone().map(OsString::from)),
        ("--model=", args.model.clone().map(OsString::from)),
        ("--budget=", args.budget.map(|budget| budget.to_string().into())),
        ("--zone=", zone.map(OsString::from)),
        ("--image=", args.image.clone().map(OsString::from)),
        ("--accept-without=", list.map(OsString::from)),
    ];
    for (flag, value) in values {
        words.extend(value.map(|value| {
            let mut word = OsString::from(flag);
            word.push(value);
            word
        }));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_user_is_asked_what_root_was_told() -> Result<(), Box<dyn std::error::Error>> {
        let typed = [
            vec!["setup", "--user", "ann", "--yes", "--demo", "--zone=Europe/Berlin"],
            vec!["setup", "--api-key-file", "/etc/key", "--model", "m", "--budget", "2.5"],
            vec![
                "setup",
                "--model-api=https://a/b",
                "--image",
                "/a b",
                "--accept-without=cpu,pids",
            ],
            vec!["setup", "--undo"],
        ];
        for typed in typed {
            let said = Cli::try_parse_from(typed)?.args;
            let again = Cli::try_parse_from(words(&said))?.args;
            assert_eq!(again.user, None);
            assert_eq!(format!("{:?}", Args { user: None, ..said }), format!("{again:?}"));
        }
        Ok(())
    }

    #[test]
    fn an_image_of_root_s_becomes_standard_input_where_nobody_answers_there()
    -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let image = directory.path().join("image");
        owned::put(&image, "an image")?;
        let mut args = Args { yes: true, image: Some(image.clone()), ..Args::default() };
        let file = hand_over(&mut args).map_err(|failure| failure.message)?;
        assert_eq!(std::io::read_to_string(file.ok_or("no file")?)?, "an image");
        assert_eq!(args.image.as_deref(), Some(Path::new(STANDARD)));

        let mut args = Args { image: Some("beside".into()), ..Args::default() };
        assert!(hand_over(&mut args).map_err(|failure| failure.message)?.is_none());
        assert!(args.image.is_some_and(|path| path.is_absolute() && path.ends_with("beside")));
        let mut args = Args { yes: true, image: Some("/none".into()), ..Args::default() };
        assert!(hand_over(&mut args).is_err());
        Ok(())
    }
}
