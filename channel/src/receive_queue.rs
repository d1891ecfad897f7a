//! The frames that wait to be consumed, within the limits that the other side must keep.

use std::collections::VecDeque;

use crate::MAX_WINDOW;
use crate::frame::Frame;

/// Maximum number of frames other than data, and of screens (which are large), that wait to be
/// consumed; a peer that sends more ends the channel.
const MAX_QUEUED_FRAMES: (usize, usize) = (256, 8);
/// Size up to which small pieces of waiting data are merged, in bytes.
const MERGE_MAX_BYTES: usize = 4096;

/// Frames that were received and not consumed, in order.
#[derive(Debug, Default)]
pub(crate) struct ReceiveQueue {
    frames: VecDeque<Frame>,
    /// Bytes of data in the queue.
    bytes: usize,
    /// Number of frames other than data in the queue, and of screens among them.
    control_frames: usize,
    screens: usize,
}

impl ReceiveQueue {
    pub(crate) fn push(&mut self, frame: Frame) -> Result<(), String> {
        match &frame {
            Frame::Data(bytes) => self.bytes += bytes.len(),
            other => {
                self.control_frames += 1;
                self.screens += usize::from(matches!(other, Frame::Screen(_)));
            }
        }
        let (others, screens) = MAX_QUEUED_FRAMES;
        if self.bytes > MAX_WINDOW as usize
            || self.control_frames > others
            || self.screens > screens
        {
            return Err("the peer exceeded its flow-control window".to_owned());
        }
        if let (Some(Frame::Data(last)), Frame::Data(bytes)) = (self.frames.back_mut(), &frame)
            && last.len() + bytes.len() <= MERGE_MAX_BYTES
        {
            *last = [&last[..], bytes].concat().into();
        } else {
            self.frames.push_back(frame);
        }
        Ok(())
    }

    pub(crate) fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        match &frame {
            Frame::Data(bytes) => self.bytes -= bytes.len(),
            other => {
                self.control_frames -= 1;
                self.screens -= usize::from(matches!(other, Frame::Screen(_)));
            }
        }
        Some(frame)
    }
}
