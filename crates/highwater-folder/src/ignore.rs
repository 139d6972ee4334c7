//! Which paths of a share are left out: the rules in `.highwaterignore` at its root, in the syntax
//! of `.gitignore`.
//!
//! The file is an entry of the share like any other, so all nodes go by the same rules; nothing
//! outside the share is read. A path is ignored when a rule says so of the path or of any directory
//! above it: as with git, nothing inside an ignored directory can be taken back in.
//!
//! Ignoring is not deleting. A path that becomes ignored is no longer looked at, and stays as it is
//! everywhere. For the same reason rules that cannot be read hold everything back: it is better to
//! sync nothing than to send out what was to stay at home.

use std::fs::File;
use std::io::Read;

use highwater_core::Key;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::problem::{Problem, ProblemKind};
use crate::root::{Root, open_beneath};

/// The name of the file with the rules.
pub const IGNORE_FILE: &str = ".highwaterignore";

/// Longest file with rules. People's have a few hundred bytes; every rule is matched against every
/// path of a scan.
pub const IGNORE_BYTES_MAX: usize = 64 * 1024;
/// Longest line: longer than a path has no meaning.
const LINE_BYTES_MAX: usize = 4096;
/// Most `**` in one line. Matching is linear in any case, but compiling such patterns is dear.
const RECURSIVE_WILDCARDS_MAX: usize = 8;
/// Most lines reported as unusable. One is enough to send a person to the file.
const PROBLEMS_MAX: usize = 10;

/// The ignore rules of one share, compiled. Matching takes time linear in the path.
#[derive(Clone, Debug)]
pub struct IgnoreRules(Rules);

#[derive(Clone, Debug)]
enum Rules {
    Usable(Gitignore),
    /// There are rules, and they are not known.
    Unreadable,
}

impl IgnoreRules {
    /// Rules that ignore nothing.
    pub fn none() -> Self {
        Self(Rules::Usable(Gitignore::empty()))
    }

    /// The rules of a share, and what is wrong with them.
    pub fn load(root: &Root) -> (IgnoreRules, Vec<Problem>) {
        match read_rules(root) {
            Ok(Some(text)) => Self::parse(&text),
            Ok(None) => (Self::none(), Vec::new()),
            Err(why) => {
                let message = format!(
                    "cannot use the ignore rules: {why}; nothing of this share is synced until \
                     they are corrected"
                );
                (Self(Rules::Unreadable), vec![problem(message)])
            }
        }
    }

    /// The rules in a text. Lines that are no rules are reported and skipped.
    pub fn parse(text: &str) -> (IgnoreRules, Vec<Problem>) {
        let mut builder = GitignoreBuilder::new("");
        let mut problems = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if let Err(why) = add_line(&mut builder, line)
                && problems.len() < PROBLEMS_MAX
            {
                let number = index + 1;
                problems.push(problem(format!("line {number} is not used: {why}; correct it")));
            }
        }
        match builder.build() {
            Ok(rules) => (Self(Rules::Usable(rules)), problems),
            Err(error) => {
                let message = format!(
                    "cannot use the ignore rules: {error}; nothing of this share is synced until \
                     they are corrected"
                );
                (Self(Rules::Unreadable), vec![problem(message)])
            }
        }
    }

    /// Whether `key`, or a directory above it, is left out.
    pub fn ignores(&self, key: &Key, is_dir: bool) -> bool {
        let path = key.as_str();
        let above = path.match_indices('/').map(|(end, _)| &path[..end]);
        above.into_iter().any(|dir| self.ignores_itself(dir, true))
            || self.ignores_itself(path, is_dir)
    }

    /// As [`IgnoreRules::ignores`], for a path whose parent is known not to be ignored.
    pub(crate) fn ignores_itself(&self, path: &str, is_dir: bool) -> bool {
        match &self.0 {
            // The file with the rules is never ignored: correcting it is the way out.
            _ if path == IGNORE_FILE => false,
            Rules::Usable(rules) => rules.matched(path, is_dir).is_ignore(),
            Rules::Unreadable => true,
        }
    }
}

fn read_rules(root: &Root) -> Result<Option<String>, String> {
    let file = match open_beneath(root.dir(), IGNORE_FILE, OFlags::RDONLY) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err("the file is a symbolic link".into()),
        Err(errno) => return Err(errno.to_string()),
    };
    let mut bytes = Vec::new();
    let limit = IGNORE_BYTES_MAX as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > IGNORE_BYTES_MAX {
        return Err(format!("the file has more than {IGNORE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "the file is not UTF-8".into())
}

fn add_line(builder: &mut GitignoreBuilder, line: &str) -> Result<(), String> {
    if line.len() > LINE_BYTES_MAX {
        return Err(format!("it has more than {LINE_BYTES_MAX} bytes"));
    }
    if line.matches("**").count() > RECURSIVE_WILDCARDS_MAX {
        return Err(format!("it has more than {RECURSIVE_WILDCARDS_MAX} times '**'"));
    }
    builder.add_line(None, line).map(drop).map_err(|error| error.to_string())
}

fn problem(message: String) -> Problem {
    Problem::new(IGNORE_FILE, ProblemKind::IgnoreRules, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Key {
        path.parse().expect("key")
    }

    #[test]
    fn rules_mean_what_they_mean_to_git() {
        let text = "# a comment\n*.tmp\n!keep.tmp\n/build/\nlogs/**/x\n\\#odd\n";
        let (rules, problems) = IgnoreRules::parse(text);
        assert_eq!(problems, []);
        let rows = [
            ("a.tmp", false, true),
            ("deep/down/a.tmp", false, true),
            ("keep.tmp", false, false),
            ("build", true, true),
            ("build", false, false),
            ("build/keep.tmp", false, true),
            ("src/build", true, false),
            ("logs/a/b/x", false, true),
            ("#odd", false, true),
            ("# a comment", false, false),
            (IGNORE_FILE, false, false),
        ];
        for (path, is_dir, ignored) in rows {
            assert_eq!(rules.ignores(&key(path), is_dir), ignored, "{path}");
        }
    }

    #[test]
    fn a_hostile_rule_is_reported_and_the_others_hold() {
        let text = format!("{}\n[z-a]\n{}\n*.tmp\n", "x".repeat(1 << 20), "**/".repeat(5000));
        let (rules, problems) = IgnoreRules::parse(&text);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(rules.ignores(&key("a.tmp"), false));
        assert!(!rules.ignores(&key("a.txt"), false));
    }

    #[test]
    fn a_pattern_that_backtracks_elsewhere_is_matched_at_once() {
        let (rules, _) = IgnoreRules::parse("a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b\n");
        assert!(!rules.ignores(&key(&"a".repeat(255)), false));
    }
}
