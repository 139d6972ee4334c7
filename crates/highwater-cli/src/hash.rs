//! Plain BLAKE3 of files, line by line as `b3sum` prints it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::text::escaped;

#[derive(Serialize)]
struct Document {
    hashes: Vec<Hashed>,
}

#[derive(Serialize)]
struct Hashed {
    path: String,
    hash: Option<String>,
    error: Option<String>,
}

/// Hashes every file that can be read, and fails if one could not.
pub(crate) fn hash(paths: &[PathBuf], output: &mut Output) -> Result<(), Failure> {
    let mut document = Document { hashes: Vec::new() };
    let mut failed = false;
    for path in paths {
        let hashed = hash_file(path);
        let name = path.to_string_lossy();
        failed |= hashed.is_err();
        if output.is_json() {
            let (hash, error) = match hashed {
                Ok(hash) => (Some(hash.to_string()), None),
                Err(e) => (None, Some(e.to_string())),
            };
            document.hashes.push(Hashed { path: name.into_owned(), hash, error });
            continue;
        }
        match hashed {
            Ok(hash) if output.is_terminal() => {
                output.line(format_args!("{hash}  {}", escaped(&name)))?;
            }
            Ok(hash) => output.line(line(&hash.to_string(), &name))?,
            Err(e) => {
                output.finish()?;
                eprintln!("highwater: cannot hash {}: {e}", escaped(&name));
            }
        }
    }
    if output.is_json() {
        output.json(&document)?;
    }
    if failed { Err(Failure::Shown(Code::Failed)) } else { Ok(()) }
}

fn hash_file(path: &Path) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize())
}

/// A line that a name with a line break in it cannot break: such names are escaped, and the line
/// begins with a backslash to say so.
fn line(hash: &str, path: &str) -> String {
    if path.contains(['\\', '\n']) {
        format!("\\{hash}  {}", path.replace('\\', "\\\\").replace('\n', "\\n"))
    } else {
        format!("{hash}  {path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_nothing_is_the_one_that_is_published() {
        let published = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(hash_file(Path::new("/dev/null")).expect("read").to_string(), published);
    }

    #[test]
    fn a_line_is_one_line_whatever_the_name() {
        assert_eq!(line("ab", "c d"), "ab  c d");
        assert_eq!(line("ab", "c\nd\\e"), "\\ab  c\\nd\\\\e");
    }
}
