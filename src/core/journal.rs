//! What the journal knows the moments of a run and of the service by: message ids, whose texts for
//! people are `systemd/noclaw.catalog` (`journalctl -x`). The fields beside them are `RUN_ID`,
//! `USER_ID`, `TASK_ID`, `CONVERSATION`, `CHANNEL`; never the text of a message, never a secret.

/// A message is on disk, and belongs to a run.
pub const ACCEPTED: &str = "0015f8ea2cfe4790afb7f464b0af888a";
/// A run's turn has come.
pub const CLAIMED: &str = "9a086cabe5074b56be69d3fd56db8bf2";
/// A run has its outcome.
pub const ENDED: &str = "af62f508025841e0a7b4b9ac899be83d";
/// A run that was interrupted is settled.
pub const SETTLED: &str = "efcfe6eaf5434ea1854f98210899a8b2";
/// The service can accept messages.
pub const READY: &str = "11aa1fae1a4044fba10a92b29927f040";
/// Something keeps it from answering.
pub const NOT_READY: &str = "09016fc281394887a3a25c22890f333d";
/// The service stops.
pub const STOPPING: &str = "69c4c7daafa343b28be76c3bb1dfe40b";
/// The owner has halted it.
pub const HALTED: &str = "8d781a9ea72d48ec9e42d60c5be3238a";
/// The owner has taken that back.
pub const UNHALTED: &str = "9a8c1c1be0ab4cf38f0bb1c8ce7b2f5d";
/// A run goes on without a folder that its user is granted.
pub const WITHOUT_FOLDER: &str = "3d7b7b4a4d0e4a52a9e5b8a0c6f2e914";
/// A service of the owner's has failed: told to the owner, once for failures in a row.
pub const FAILED: &str = "4448faf5225a40fdbcb1464c8169eb8d";

/// All of them.
pub const ALL: [&str; 11] = [
    ACCEPTED,
    CLAIMED,
    ENDED,
    SETTLED,
    READY,
    NOT_READY,
    STOPPING,
    HALTED,
    UNHALTED,
    WITHOUT_FOLDER,
    FAILED,
];

#[cfg(test)]
mod tests {
    use super::*;

    const CATALOG: &str = include_str!("../../systemd/noclaw.catalog");

    #[test]
    fn each_moment_has_a_text_in_the_catalog_and_each_text_a_moment() {
        let entries: Vec<_> = CATALOG.split("\n-- ").skip(1).collect();
        let ids: Vec<_> = entries.iter().filter_map(|entry| entry.lines().next()).collect();
        for id in ALL {
            assert_eq!(ids.iter().filter(|known| **known == id).count(), 1, "{id}");
            assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        }
        assert_eq!(ids.len(), ALL.len());
        for entry in entries {
            let (head, text) = entry.split_once("\n\n").unwrap_or_default();
            for line in ["Subject: ", "Defined-By: NoClaw", "Documentation: "] {
                assert!(head.contains(&format!("\n{line}")), "{line} in {entry}");
            }
            assert!(text.trim().len() > 20, "{entry}");
        }
    }
}
