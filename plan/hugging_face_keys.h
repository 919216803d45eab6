#pragma once
// Keys of a Hugging Face config.json that no family reads: those that would change the architecture
// or its cost have one value that is understood, those that say nothing about either are passed
// over by name, and all others are refused by name.

#include <optional>
#include <string_view>

#include "base/yaml.h"

namespace rehearse {

// What is missing here of an architecture that is known not to be supported; else empty.
std::string_view missing_of_type(std::string_view model_type);

// Of what is left when a family has read its own keys. Throws InputError.
void require_known_keys(YamlMap& top);

// Of what stands beside a multimodal model's text_config: of towers, of the whole model's tokens,
// or what text_config says too. Throws InputError.
void require_known_beside(YamlMap& top, YamlMap& text_config);

}  // namespace rehearse
