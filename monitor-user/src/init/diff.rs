//! A unified diff of two texts that differ in one place.
//!
//! What comes before the first and after the last difference is told apart from what lies
//! between; that one hunk is a right diff of any two texts, and a short one of ours.

/// Lines around the difference.
const CONTEXT: usize = 3;

/// The diff in the format of `diff -u`; `None` stands for no file. Empty if both are equal.
pub(crate) fn unified(name: &str, before: Option<&[u8]>, after: Option<&[u8]>) -> String {
    if before == after {
        return String::new();
    }
    let old = lines(before.unwrap_or_default());
    let new = lines(after.unwrap_or_default());
    let same_start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let most = old.len().min(new.len()) - same_start;
    let pairs = old.iter().rev().zip(new.iter().rev());
    let same_end = pairs.take(most).take_while(|(a, b)| a == b).count();
    let first = same_start.saturating_sub(CONTEXT);
    let trailing = same_end.min(CONTEXT);
    let range = |count: usize| {
        let length = count - same_end + trailing - first;
        // An empty range is named by the line before it.
        format!("{},{length}", if length == 0 { first } else { first + 1 })
    };
    let file = |content: Option<&[u8]>| match content {
        Some(_) => name.to_owned(),
        None => "/dev/null".to_owned(),
    };
    let mut out = format!("--- {}\n+++ {}\n", file(before), file(after));
    out += &format!("@@ -{} +{} @@\n", range(old.len()), range(new.len()));
    let mut put = |sign: char, lines: &[String]| {
        for line in lines {
            out.push(sign);
            out.push_str(line);
            if !line.ends_with('\n') {
                out.push_str("\n\\ No newline at end of file\n");
            }
        }
    };
    put(' ', &old[first..same_start]);
    put('-', &old[same_start..old.len() - same_end]);
    put('+', &new[same_start..new.len() - same_end]);
    put(' ', &old[old.len() - same_end..][..trailing]);
    out
}

fn lines(text: &[u8]) -> Vec<String> {
    text.split_inclusive(|byte| *byte == b'\n')
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn shows_what_is_new_in_its_surroundings() {
        let before = b"1\n2\n3\n4\n5\n";
        let after = b"1\n2\n3\n4\nnew\n5\n";
        assert_eq!(
            unified("/f", Some(before), Some(after)),
            "--- /f\n+++ /f\n@@ -2,4 +2,5 @@\n 2\n 3\n 4\n+new\n 5\n"
        );
        assert_eq!(
            unified("/f", None, Some(b"a\n")),
            "--- /dev/null\n+++ /f\n@@ -0,0 +1,1 @@\n+a\n"
        );
        assert_eq!(unified("/f", Some(b"a"), Some(b"a")), "");
    }

    #[test]
    fn patch_makes_the_one_of_the_other() {
        if Command::new("patch").arg("--version").output().is_err() {
            return;
        }
        let texts = [
            "",
            "a\n",
            "a",
            "a\nb\n",
            "b\na\n",
            "1\n2\n3\n4\n5\n6\n7\n8\n9",
            "1\n2\n3\n4\nx\ny\n6\n7\n8\n9",
            "\n\n",
        ];
        for before in texts {
            for after in texts {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("f");
                std::fs::write(&path, before).unwrap();
                let diff = unified("f", Some(before.as_bytes()), Some(after.as_bytes()));
                let mut patch = Command::new("patch")
                    .args(["--quiet", "--no-backup-if-mismatch", "--fuzz=0", "f"])
                    .current_dir(dir.path())
                    .stdin(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut stdin = patch.stdin.take().unwrap();
                stdin.write_all(diff.as_bytes()).unwrap();
                drop(stdin);
                assert!(patch.wait().unwrap().success(), "{diff}");
                let patched = std::fs::read_to_string(&path).unwrap_or_default();
                assert_eq!(patched, after, "{diff}");
            }
        }
    }
}
