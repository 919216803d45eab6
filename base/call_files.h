#pragma once
// The files of a call: what it reads and what it writes. One place knows both, so that nothing that
// is read is overwritten, whoever reads it and whether its name is known before work begins or
// found on the way (a plan's model, a device's tables, the shards of a checkpoint).
//
// Whatever opens a file of the user's to read it says so (note_input; read_file does); a verb says
// what it is going to write (claim_output), before it works. Whichever comes second is refused.

#include <string>
#include <vector>

namespace rehearse {

// A file that is read; nothing where this call wrote it itself, or claimed it to go on with
// (claim_own_folder). Throws InputError where this call has claimed it as an output.
void note_input(const std::string& path);

// A file that was written whole (NewFile).
void note_written(const std::string& path);

// A file that will be written, replacing what is there. Throws InputError where this call reads
// it, or writes another result to it.
void claim_output(const std::string& path);

// A folder that will be emptied: nothing in it may be an input.
void claim_output_folder(const std::string& path);
// A folder of this call's own, which it reads, goes on with and removes from.
void claim_own_folder(const std::string& path);

// What was noted and claimed so far, each once, in order.
struct CallFiles {
  std::vector<std::string> read, claimed, emptied, own, written;
};
const CallFiles& call_files();

// Of the inputs so far, the one whose name `text` begins with, such as "plan.yaml:3:1: ..."; else
// empty.
std::string input_named_in(const std::string& text);

}  // namespace rehearse
