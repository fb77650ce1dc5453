//! The checkout: every file that is not built, and what is found in them.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use crate::EXCEPTIONS;
use crate::source::Source;

/// Something to change.
#[derive(Debug)]
pub struct Finding {
    pub file: String,
    pub line: usize,
    pub say: String,
}

impl Finding {
    pub fn new(file: &str, line: usize, say: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, say: say.into() }
    }
}

/// Any file's path and text; what is not UTF-8 is read as well as it can be.
pub struct Text {
    pub path: String,
    pub text: String,
}

/// What the rules look at.
pub struct Checkout {
    /// Names at the top level.
    pub top: Vec<String>,
    /// Every file.
    pub texts: Vec<Text>,
    /// Those in Rust.
    pub sources: Vec<Source>,
}

/// This one, read once for all tests.
pub fn checkout() -> &'static Checkout {
    static CHECKOUT: LazyLock<Checkout> = LazyLock::new(Checkout::read);
    &CHECKOUT
}

/// What is Rust in it.
pub fn sources() -> &'static [Source] {
    &checkout().sources
}

impl Checkout {
    /// Reads all files below the package's own folder, except what git and cargo keep there.
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut texts = Vec::new();
        walk(root, "", &mut texts);
        texts.sort_by(|a, b| a.path.cmp(&b.path));
        assert!(texts.iter().any(|file| file.path == "src/lib.rs"), "no checkout at {root:?}");

        let top = names(root).into_iter().filter(|name| !is_built(&root.join(name))).collect();
        let rust = texts.iter().filter(|file| file.path.ends_with(".rs"));
        let mut sources = rust.map(|file| Source::new(&file.path, &file.text)).collect::<Vec<_>>();
        mark_test_modules(&mut sources);
        Self { top, texts, sources }
    }
}

/// Files that a `#[cfg(test)] mod NAME;` elsewhere brings in are tests from their first line.
fn mark_test_modules(sources: &mut [Source]) {
    let modules = sources.iter().flat_map(|source| {
        let stem = source.path.trim_end_matches(".rs");
        let folder = match stem.rsplit_once('/') {
            Some((folder, "mod" | "lib" | "main")) => folder,
            _ => stem,
        };
        source.test_modules.iter().map(move |name| format!("{folder}/{name}"))
    });
    let modules = modules.collect::<Vec<_>>();
    for source in sources {
        let within = |module: &String| {
            let rest = source.path.strip_prefix(module.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        };
        if modules.iter().any(within) {
            source.only_tests();
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Cargo marks its folders, git its own; a checkout within the checkout is somebody else's.
fn is_built(path: &Path) -> bool {
    path.ends_with("target")
        || path.ends_with(".git")
        || path.join("CACHEDIR.TAG").exists()
        || path.join(".git").exists()
}

fn walk(folder: &Path, before: &str, out: &mut Vec<Text>) {
    for name in names(folder) {
        let path = folder.join(&name);
        let shown = format!("{before}{name}");
        let Ok(kind) = path.symlink_metadata() else { continue };
        if kind.is_dir() && !is_built(&path) {
            walk(&path, &format!("{shown}/"), out);
        } else if kind.is_file() && name != ".git" {
            // An editor may have moved it away since it was listed.
            let Ok(bytes) = fs::read(&path) else { continue };
            let text = String::from_utf8_lossy(&bytes).into_owned();
            out.push(Text { path: shown, text });
        }
    }
}

/// Fails with all findings of these rules that no exception covers, and with the exceptions that
/// nothing needs.
#[track_caller]
pub fn judge<const N: usize>(rules: [(&str, Vec<Finding>); N]) {
    let mut wrong = Vec::new();
    for (rule, findings) in &rules {
        let exceptions = EXCEPTIONS.iter().filter(|(of, ..)| of == rule);
        for found in findings {
            if exceptions.clone().all(|(_, file, _)| *file != found.file) {
                wrong.push(format!("{}:{}: {} [{rule}]", found.file, found.line, found.say));
            }
        }
        for (_, file, reason) in exceptions {
            if findings.iter().all(|found| found.file != *file) {
                let say = format!("nothing needs the exception of {file} ({reason}): remove it");
                wrong.push(format!("tests/tidy.rs:1: {say} [{rule}]"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
