#include "runtime/tensorboard.h"

#include <bit>
#include <chrono>
#include <filesystem>

#include <fmt/format.h>
#include <unistd.h>

#include "base/crc32c.h"

namespace rehearse {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

void put_little_endian(std::string& to, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) to += static_cast<char>(value >> (8 * i) & 0xFF);
}

// Protocol buffers: a key of field number and wire type, then the value.
enum Wire : uint8_t { kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5 };
void put_varint(std::string& to, uint64_t value) {
  for (; value >= 0x80; value >>= 7) to += static_cast<char>(value | 0x80);
  to += static_cast<char>(value);
}
void put_key(std::string& to, int field, Wire wire) {
  put_varint(to, static_cast<uint64_t>(field) << 3 | wire);
}
void put_text(std::string& to, int field, const std::string& text) {
  put_key(to, field, kLength);
  put_varint(to, text.size());
  to += text;
}

std::string event_at(int64_t step) {
  std::string event;
  put_key(event, 1, kFixed64);  // wall_time
  put_little_endian(event, std::bit_cast<uint64_t>(now()), 8);
  put_key(event, 2, kVarint);  // step
  put_varint(event, static_cast<uint64_t>(step));
  return event;
}

void put_scalar(std::string& summary, const std::string& tag, double value) {
  std::string one;
  put_text(one, 1, tag);
  put_key(one, 2, kFixed32);  // simple_value
  put_little_endian(one, std::bit_cast<uint32_t>(static_cast<float>(value)), 4);
  put_text(summary, 1, one);
}

// CRC-32C, turned and shifted so that a checksum of checksums is none (TensorFlow's masked_crc32c).
uint32_t masked_checksum(std::string_view data) {
  return std::rotr(crc32c(std::as_bytes(std::span(data))), 15) + 0xA282EAD8u;
}

std::string name_in(const std::string& folder) {
  // TensorBoard takes any name with "tfevents" in it.
  return (std::filesystem::path(folder) /
          fmt::format("events.out.tfevents.{:.6f}.rehearse.{}", now(), ::getpid()))
      .string();
}

}  // namespace

TensorboardFile::TensorboardFile(const std::string& folder, int64_t first_step)
    : file_(name_in(folder)) {
  std::string version = event_at(0);
  put_text(version, 3, "brain.Event:2");
  if (!add(version)) throw InputError(why());
  if (first_step == 0) return;
  // SessionLog::START: what earlier files have from this step on, counted from 1, is lost.
  std::string start = event_at(first_step + 1);
  put_text(start, 7, std::string("\x08\x01", 2));
  if (!add(start)) throw InputError(why());
}

bool TensorboardFile::add(const std::string& event) {
  std::string record;
  put_little_endian(record, event.size(), 8);
  put_little_endian(record, masked_checksum(record), 4);
  record += event;
  put_little_endian(record, masked_checksum(event), 4);
  return file_.append_bytes(record);
}

bool TensorboardFile::append(const StepLog& log) {
  std::string summary;
  put_scalar(summary, "loss/training", log.loss);
  if (log.validation_loss) put_scalar(summary, "loss/validation", *log.validation_loss);
  for (size_t i = 0; i < log.mtp_losses.size(); ++i) {
    put_scalar(summary, fmt::format("loss/mtp_{}", i + 1), log.mtp_losses[i]);
  }
  put_scalar(summary, "optimizer/gradient_norm", log.gradient_norm);
  put_scalar(summary, "optimizer/learning_rate", log.learning_rate);
  put_scalar(summary, "optimizer/sequences", static_cast<double>(log.sequences));
  put_scalar(summary, "speed/tokens_per_s", log.tokens_per_s);
  put_scalar(summary, "speed/tflops_per_rank", log.tflops_per_rank);
  put_scalar(summary, "speed/step_time_s", log.time.seconds());
  put_scalar(summary, "speed/bubble_fraction", log.bubble);
  put_scalar(summary, "speed/exposed_comm_fraction", log.exposed_comm);
  put_scalar(summary, "memory/activation_bytes", static_cast<double>(log.memory.count()));
  for (size_t i = 0; i < log.expert_load.size(); ++i) {
    const std::string layer = fmt::format("expert_load/moe_layer_{}_", i);
    put_scalar(summary, layer + "max", log.expert_load[i]);
    put_scalar(summary, layer + "p50", log.expert_load_p50[i]);
    put_scalar(summary, layer + "p90", log.expert_load_p90[i]);
    put_scalar(summary, layer + "p99", log.expert_load_p99[i]);
  }
  std::string event = event_at(log.step + 1);
  put_text(event, 5, summary);
  return add(event);
}

}  // namespace rehearse
