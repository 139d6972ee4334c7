//! A small disk of its own for a node, whose power can be cut.
//!
//! The disk is an image file on a loop device. Cutting the power is the file system's own shutdown
//! order (`EXT4_IOC_SHUTDOWN`, which xfs knows as well): from that moment nothing that is dirty in
//! memory reaches the image any more, and what was promised by a sync stands there. The next mount
//! replays the journal, as after a real power cut.
//!
//! What it cannot show: the image lies in a file, whose own cache survives. A write that was handed
//! to the disk and not flushed out of the disk's cache is not lost here.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a mount may be held by a process that is ending.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(20);
const UNMOUNT_INTERVAL: Duration = Duration::from_millis(5);
/// Bytes copied at a time.
const BLOCK_BYTES: usize = 256 * 1024;

/// The kinds of file system that can be shut down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum FileSystem {
    /// The default of most systems.
    Ext4,
    /// Another journal, other habits: delayed allocation goes further.
    Xfs,
}

impl FileSystem {
    fn maker(self) -> (&'static str, &'static [&'static str]) {
        match self {
            FileSystem::Ext4 => ("mkfs.ext4", &["-q", "-F"]),
            FileSystem::Xfs => ("mkfs.xfs", &["-q", "-f"]),
        }
    }

    /// The smallest that its maker makes, or that a node calls healthy, whichever is more.
    fn bytes(self) -> u64 {
        match self {
            FileSystem::Ext4 => 192 << 20,
            FileSystem::Xfs => 320 << 20,
        }
    }
}

/// What becomes of the journal when the power goes. Data that was not synced is lost either way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub enum Journal {
    /// It is written out first: names and sizes may be there, and the bytes behind them not.
    Flushed,
    /// It is lost as well, since its last commit.
    Lost,
}

impl Journal {
    /// The kernel's `EXT4_GOING_FLAGS_LOGFLUSH` and `…_NOLOGFLUSH`.
    fn flag(self) -> u32 {
        match self {
            Journal::Flushed => 1,
            Journal::Lost => 2,
        }
    }
}

/// Why power cannot be cut on this machine, if it cannot.
pub fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("a disk image can only be mounted by root");
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices");
    }
    let runs = |program: &str, arg: &str| {
        let mut command = Command::new(program);
        command.arg(arg).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    match (runs("perl", "-v"), runs("mkfs.ext4", "-V")) {
        (true, true) => None,
        (false, _) => Some("perl, which gives the order to the file system, is not installed"),
        (_, false) => Some("mkfs.ext4 is not installed"),
    }
}

/// A disk image and where it is mounted. Dropping it unmounts it.
#[derive(Debug)]
pub struct Disk {
    /// The image of the present life; each has its own file.
    image: PathBuf,
    life: u32,
    at: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes a disk with its image in `dir`, and mounts it.
    pub fn make(kind: FileSystem, dir: &Path, at: &Path) -> Result<Disk> {
        let image = dir.join("disk-0.img");
        let file = fs::File::create(&image).with_context(|| format!("{}", image.display()))?;
        file.set_len(kind.bytes())?;
        let (maker, options) = kind.maker();
        run(Command::new(maker).args(options).arg(&image))?;
        fs::create_dir_all(at)?;
        let mut disk = Disk { image, life: 0, at: at.to_owned(), mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.at
    }

    /// The image file.
    pub fn image(&self) -> &Path {
        &self.image
    }

    fn mount(&mut self) -> Result<()> {
        run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&self.image).arg(&self.at))?;
        self.mounted = true;
        Ok(())
    }

    /// Mounts what the disk holds now, which replays its journal. The image of the life before it
    /// stays as it was found.
    pub fn restart(&mut self) -> Result<()> {
        let now = self.image.clone();
        self.restart_from(&now)
    }

    /// Mounts a copy of `image` instead. It is always a copy: as long as anybody has the old mount
    /// in a mount namespace of his own, mounting the same file again would only bring back the
    /// file system that was shut down.
    pub fn restart_from(&mut self, image: &Path) -> Result<()> {
        self.unmount()?;
        self.life += 1;
        let next = self.image.with_file_name(format!("disk-{}.img", self.life));
        copy_sparse(image, &next)?;
        if let Some(before) = self.life.checked_sub(2) {
            // It is gone already when it was not kept.
            let _ = fs::remove_file(self.image.with_file_name(format!("disk-{before}.img")));
        }
        self.image = next;
        self.mount()
    }

    /// Unmounts it, once nobody is left who holds it.
    pub fn unmount(&mut self) -> Result<()> {
        let deadline = Instant::now() + UNMOUNT_PATIENCE;
        while self.mounted {
            match run(Command::new("umount").arg(&self.at)) {
                Ok(()) => self.mounted = false,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(UNMOUNT_INTERVAL),
            }
        }
        Ok(())
    }

    /// Gets the order to cut the power ready, so that it takes no time when it is given.
    pub fn arm(&self, journal: Journal) -> Result<Fuse> {
        let mut command = Command::new("perl");
        command.arg("-e").arg(SHUTDOWN).arg(&self.at).arg(journal.flag().to_string());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut armed = [0; 1];
        let stdout = process.stdout.as_mut().context("the fuse has no output")?;
        stdout.read_exact(&mut armed).context("the fuse did not become ready")?;
        Ok(Fuse { process })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Whoever still holds it must not keep the temporary directory from being removed.
            let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
        }
    }
}

/// `EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN` are one number. The interpreter gives the order
/// because an ioctl has no safe wrapper in Rust.
const SHUTDOWN: &str = r#"
sysopen(DIR, $ARGV[0], 0) or die "open: $!";
my $flag = pack("L", $ARGV[1]);
syswrite(STDOUT, "!");
sysread(STDIN, my $order, 1) or exit 1;
ioctl(DIR, 0x8004587d, $flag) or die "shutdown: $!";
"#;

/// The order to cut the power, ready to be given.
#[derive(Debug)]
pub struct Fuse {
    process: Child,
}

impl Fuse {
    /// Cuts the power now.
    pub fn blow(mut self) -> Result<()> {
        let mut stdin = self.process.stdin.take().context("the fuse has no input")?;
        stdin.write_all(b"!")?;
        let status = self.process.wait()?;
        ensure!(status.success(), "the file system refused to be shut down: {status}");
        Ok(())
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // Without an order it ends at the end of its input; killing it makes sure.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Copies a disk image without its holes.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let source = fs::File::open(from).with_context(|| format!("{}", from.display()))?;
    let target = fs::File::create(to).with_context(|| format!("{}", to.display()))?;
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut offset = 0;
    while let Ok(data) = rustix::fs::seek(&source, rustix::fs::SeekFrom::Data(offset)) {
        let hole = rustix::fs::seek(&source, rustix::fs::SeekFrom::Hole(data))?;
        offset = data;
        while offset < hole {
            let wanted = usize::try_from(hole - offset).unwrap_or(usize::MAX).min(block.len());
            let read = source.read_at(&mut block[..wanted], offset)?;
            if read == 0 {
                bail!("{} became shorter while it was copied", from.display());
            }
            target.write_all_at(&block[..read], offset)?;
            offset += read as u64;
        }
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {said}", output.status);
    Ok(())
}
