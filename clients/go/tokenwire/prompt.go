package tokenwire

import frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"

// Text returns a prompt of plain text.
func Text(text string) *frontendv1.Prompt {
	return &frontendv1.Prompt{Content: &frontendv1.Prompt_Text{Text: text}}
}

// TokenIDs returns a prompt of ids of the model's own vocabulary.
func TokenIDs(ids ...uint32) *frontendv1.Prompt {
	return &frontendv1.Prompt{Content: &frontendv1.Prompt_TokenIds{TokenIds: &frontendv1.TokenIds{Ids: ids}}}
}

// Chat returns a prompt that is a conversation.
func Chat(messages ...*frontendv1.ChatMessage) *frontendv1.Prompt {
	return &frontendv1.Prompt{Content: &frontendv1.Prompt_Chat{Chat: &frontendv1.Chat{Messages: messages}}}
}

// Message returns one turn of a conversation.
func Message(role frontendv1.Role, content string) *frontendv1.ChatMessage {
	return &frontendv1.ChatMessage{Role: role, Content: &content}
}
