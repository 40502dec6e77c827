//! What kind of file system a folder is on.

use std::path::{Path, PathBuf};

/// Kinds whose locks may be granted on two hosts, or whose syncs may not be.
const NETWORK: [&str; 10] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "fuse.sshfs",
    "fuse.s3fs",
    "fuse.rclone",
];

/// The kind of network file system `folder` is on, where it is known to be on one; Linux tells, others do
/// not.
pub(crate) fn network_file_system(folder: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    kind_of(&mounts, folder)
        .filter(|kind| NETWORK.contains(kind))
        .map(str::to_owned)
}

/// The kind of the mount that `folder`, without links, is on; of several in one place the last is on top.
/// `mounts` is as proc_pid_mountinfo(5) tells.
fn kind_of<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    mounts
        .lines()
        .filter_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let point = unescape(mount.split(' ').nth(4)?);
            Some((point, kind.split(' ').next()?))
        })
        .filter(|(point, _)| folder.starts_with(point))
        .max_by_key(|(point, _)| point.components().count())
        .map(|(_, kind)| kind)
}

/// Spaces and the like are three octal digits.
fn unescape(point: &str) -> PathBuf {
    let point = point
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    PathBuf::from(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 22 0:26 / /nets rw,relatime shared:1 master:2 - nfs4 server:/nets rw,vers=4.2
32 31 0:27 / /nets/me/local\\040disk rw - xfs /dev/vdb rw
33 22 0:28 / /mnt rw - ext4 /dev/vdc rw
34 22 0:29 / /mnt rw - cifs //server/share rw
35 22 0:30 / /far rw - fuse.sshfs me@far: rw
";

    #[test]
    fn f_153_a_folder_is_on_the_mount_nearest_above_it() {
        for (folder, kind) in [
            ("/", "ext4"),
            ("/netss/job", "ext4"),
            ("/nets/me/job", "nfs4"),
            ("/nets/me/local disk/job", "xfs"),
            ("/mnt/job", "cifs"),
            ("/far", "fuse.sshfs"),
        ] {
            let found = kind_of(MOUNTS, Path::new(folder)).unwrap();
            assert_eq!(found, kind, "{folder}");
            let network = !matches!(kind, "ext4" | "xfs");
            assert_eq!(NETWORK.contains(&found), network, "{folder}");
        }
        assert_eq!(kind_of("nonsense", Path::new("/")), None);
    }
}
